// SPDX-License-Identifier: BSD-3-Clause
// log_probability: a cluster of blocks per row, for the rows that want it.
#include "cuda/launchers.h"
#include "cuda/sampling.h"
#include "device/normaliser.cuh"
#include "device/pdl.cuh"

namespace ft::cuda {
namespace {

using device::Cluster;

constexpr int kThreads = device::kNormaliserThreads;

template <int kBlocks>
__global__ void __launch_bounds__(kThreads)
    log_probability_kernel(float* out, Logits logits, const int32_t* tokens, const int32_t* slots,
                           const int32_t* integers, int num_slots) {
  __shared__ device::NormaliserShared<kBlocks> shared;
  const int slot = slots[blockIdx.y];
  const bool wanted = slot >= 0 && integers[kWantsLogprob * num_slots + slot] != 0;
  device::wait_for_predecessor();
  const bool is_first = Cluster<kBlocks>::rank() == 0 && threadIdx.x == 0;
  if (!wanted) {
    if (is_first) out[blockIdx.y] = 0.0f;
    return;
  }
  const float* const row = logits.data + blockIdx.y * logits.stride;
  const device::Segment segment = device::segment_of<kBlocks, kThreads>(row, logits.vocab_size);
  const device::Normaliser of_row = device::normaliser_of(shared, segment);
  if (is_first) out[blockIdx.y] = of_row(row[tokens[blockIdx.y]]);
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
