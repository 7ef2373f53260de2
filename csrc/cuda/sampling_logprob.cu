// SPDX-License-Identifier: BSD-3-Clause
// log_probability: a cluster of blocks per row, for the rows that want it; sums in an order that
// depends on the vocabulary alone.
#include "cuda/launchers.h"
#include "cuda/sampling.h"
#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "device/row.cuh"

namespace ft::cuda {
namespace {

using device::Cluster;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <int kBlocks>
struct Shared {
  float of_warps[kWarps], of_blocks[kBlocks];
};

// Combines what all threads of the cluster bring, for each of them. Waits for the blocks to have
// arrived. shared: used for one reduction only.
template <int kBlocks, typename Combine>
__device__ float reduce(Shared<kBlocks>& shared, float x, Combine combine) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) {
    x = combine(x, __shfl_xor_sync(0xffffffffu, x, width));
  }
  if (threadIdx.x % 32 == 0) shared.of_warps[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x < kBlocks) {
    float of_block = shared.of_warps[0];
    for (int i = 1; i < kWarps; ++i) of_block = combine(of_block, shared.of_warps[i]);
    *Cluster<kBlocks>::at(&shared.of_blocks[Cluster<kBlocks>::rank()], threadIdx.x) = of_block;
  }
  Cluster<kBlocks>::sync();
  float of_row = shared.of_blocks[0];
  for (int i = 1; i < kBlocks; ++i) of_row = combine(of_row, shared.of_blocks[i]);
  return of_row;
}

template <int kBlocks>
__global__ void __launch_bounds__(kThreads)
    log_probability_kernel(float* out, Logits logits, const int32_t* tokens, const int32_t* slots,
                           const int32_t* integers, int num_slots) {
  __shared__ Shared<kBlocks> maxima, sums;
  const bool is_first = Cluster<kBlocks>::rank() == 0 && threadIdx.x == 0;
  const int slot = slots[blockIdx.y];
  const bool wanted = slot >= 0 && integers[kWantsLogprob * num_slots + slot] != 0;
  device::wait_for_predecessor(gridDim.y);
  if (!wanted) {
    if (is_first) out[blockIdx.y] = 0.0f;
    return;
  }
  Cluster<kBlocks>::arrive();
  const float* const row = logits.data + blockIdx.y * logits.stride;
  const device::Segment segment = device::segment_of<kBlocks, kThreads>(row, logits.vocab_size);
  float largest = -INFINITY;
  device::for_each(segment, [&](int, float logit) { largest = fmaxf(largest, logit); });
  Cluster<kBlocks>::wait();
  largest = reduce(maxima, largest, Max{});
  float sum = 0.0f;
  device::for_each(segment, [&](int, float logit) { sum += expf(logit - largest); });
  sum = reduce(sums, sum, Add{});
  if (is_first) out[blockIdx.y] = row[tokens[blockIdx.y]] - largest - logf(sum);
}

}  // namespace

void log_probability(const Tensor& out, const Tensor& logits, const Tensor& tokens,
                     const Tensor& slots, const Tensor& integers, int64_t stream) {
  const char* const op = "log_probability";
  const Logits rows = check_logits(op, logits, slots);
  check_vector(op, "out", out, slots.shape[0], DType::kFloat32);
  check_vector(op, "tokens", tokens, slots.shape[0], DType::kInt32);
  const int32_t* const checked = check_integers(op, integers);
  if (slots.shape[0] == 0) return;
  const unsigned blocks = has_clusters() ? kClusterBlocks : 1;
  launch_clusters(
      op, has_clusters() ? log_probability_kernel<kClusterBlocks> : log_probability_kernel<1>,
      blocks, dim3(blocks, static_cast<unsigned>(slots.shape[0])), kThreads, 0, stream,
      out.as<float>(), rows, tokens.as<int32_t>(), slots.as<int32_t>(), checked,
      static_cast<int>(integers.shape[1]));
}

}  // namespace ft::cuda
