// SPDX-License-Identifier: BSD-3-Clause
// normalise_rows and beam_candidates: blocks share a row, for the rows of beams. The best of a row
// are found without sorting it: the largest logits of single threads say how small a candidate may
// be, and only what is not smaller is sorted.
#include "cuda/launchers.h"
#include "cuda/sampling.h"
#include "device/normaliser.cuh"
#include "device/pdl.cuh"
#include "device/rank.cuh"
#include "device/sort.cuh"

namespace ft::cuda {
namespace {

using device::Cluster;
using device::Segment;

constexpr int kThreads = device::kNormaliserThreads;
constexpr int kRound = 128;      // candidates that a pass over the row finds
constexpr int kCapacity = 1024;  // ranks that are sorted
static_assert(kClusterBlocks * kRound <= kCapacity && kThreads <= kCapacity);
// Up to so many rows a cluster is faster than a block that reads the row alone.
constexpr int kClusterRows = 64;

template <int kBlocks>
__global__ void __launch_bounds__(kThreads)
    normalise_rows_kernel(Logits logits, const int32_t* num_candidates) {
  __shared__ device::NormaliserShared<kBlocks> shared;
  const bool wanted = num_candidates[blockIdx.y] > 0;
  device::wait_for_predecessor();
  if (!wanted) return;
  float* const row = logits.data + blockIdx.y * logits.stride;
  const Segment segment = device::segment_of<kBlocks, kThreads>(row, logits.vocab_size);
  const device::Normaliser of_row = device::normaliser_of(shared, segment);
  device::for_each(segment, [&](int index, float logit) {
    if (index < segment.end) row[index] = of_row(logit);
  });
}

struct Candidates {
  int32_t* tokens;
  float* logprobs;
  int capacity;  // of a row
};

struct Shared {
  uint64_t ranks[kCapacity];
  uint64_t best[kCapacity];  // of all blocks
  uint64_t limit;            // above all ranks that are left
  int count;
};

__device__ int power_of_two(int least) { return least <= 1 ? 1 : 1 << (32 - __clz(least - 1)); }

// The ranks in [least, limit) of the segment, as many as fit into shared.ranks; how many there are.
__device__ int collect(Shared& shared, const Segment& segment, uint64_t least, uint64_t limit) {
  __syncthreads();
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  device::for_each(segment, [&](int index, float logit) {
    const uint64_t rank = device::rank_of(logit, index);
    if (index >= segment.end || rank < least || rank >= limit) return;
    const int place = atomicAdd(&shared.count, 1);
    if (place < kCapacity) shared.ranks[place] = rank;
  });
  __syncthreads();
  return shared.count;
}

// Leaves the `wanted` largest ranks of the block's segments below `limit` at the start of
// shared.ranks, largest first, and zeros behind them where there are fewer.
__device__ void select(Shared& shared, const Segment& segment, uint64_t limit, int wanted) {
  uint64_t largest = 0;
  device::for_each(segment, [&](int index, float logit) {
    const uint64_t rank = device::rank_of(logit, index);
    if (index < segment.end && rank < limit) largest = max(largest, rank);
  });
  __syncthreads();
  shared.ranks[threadIdx.x] = largest;
  __syncthreads();
  device::sort_descending<kThreads>(shared.ranks, kThreads);
  uint64_t least = max(shared.ranks[wanted - 1], uint64_t{1});
  int count = collect(shared, segment, least, limit);
  // Where a few threads have most of the large ones: `least` leaves too many, `most` too few.
  for (uint64_t most = limit; count > kCapacity;) {
    const uint64_t middle = least + (most - least) / 2;
    const int left = collect(shared, segment, middle, limit);
    (left < wanted ? most : least) = middle;
    if (left >= wanted) count = left;
  }
  const int size = power_of_two(max(count, wanted));
  for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kThreads) shared.ranks[i] = 0;
  __syncthreads();
  device::sort_descending<kThreads>(shared.ranks, size);
}

// Merges what the blocks selected, in the first of them.
template <int kBlocks>
__device__ void merge(Shared& shared, int wanted) {
  const int size = power_of_two(kBlocks * wanted);
  for (int i = threadIdx.x; i < size; i += kThreads) {
    const int block = i / wanted;
    shared.best[i] = block < kBlocks ? Cluster<kBlocks>::at(shared.ranks, block)[i % wanted] : 0;
  }
  __syncthreads();
  if constexpr (kBlocks > 1) device::sort_descending<kThreads>(shared.best, size);
}

template <int kBlocks>
__global__ void __launch_bounds__(kThreads)
    beam_candidates_kernel(Logits logits, const int32_t* num_candidates, Candidates out) {
  __shared__ Shared shared;
  const int count = min(num_candidates[blockIdx.y], out.capacity);
  device::wait_for_predecessor();
  if (count <= 0) return;
  out.tokens += static_cast<int64_t>(blockIdx.y) * out.capacity;
  out.logprobs += static_cast<int64_t>(blockIdx.y) * out.capacity;
  const float* const row = logits.data + blockIdx.y * logits.stride;
  const Segment segment = device::segment_of<kBlocks, kThreads>(row, logits.vocab_size);
  uint64_t limit = ~uint64_t{0};
  for (int first = 0; first < count; first += kRound) {
    const int wanted = min(count - first, kRound);
    select(shared, segment, limit, wanted);
    Cluster<kBlocks>::sync();
    if (Cluster<kBlocks>::rank() == 0) {
      merge<kBlocks>(shared, wanted);
      for (int i = threadIdx.x; i < wanted; i += kThreads) {
        out.tokens[first + i] = device::index_of(shared.best[i]);
        out.logprobs[first + i] = device::logit_of(shared.best[i]);
      }
      if (threadIdx.x < kBlocks) {
        *Cluster<kBlocks>::at(&shared.limit, threadIdx.x) = shared.best[wanted - 1];
      }
    }
    Cluster<kBlocks>::sync();  // before which no block may end or select again
    limit = shared.limit;
  }
}

void check_candidates(const char* op, const char* argument, const Tensor& tensor,
                      const Tensor& like, DType dtype) {
  check_on_gpu(op, argument, tensor);
  check_shape(op, argument, tensor, {like.shape[0], like.shape[1]});
  check_dtype(op, argument, tensor, dtype);
  check_contiguous(op, argument, tensor);
}

}  // namespace

void normalise_rows(const Tensor& logits, const Tensor& num_candidates, int64_t stream) {
  const char* const op = "normalise_rows";
  const Logits rows = check_logits(op, logits, num_candidates, "num_candidates");
  if (logits.shape[0] == 0) return;
  const unsigned blocks = has_clusters() ? kClusterBlocks : 1;
  launch_clusters(op,
                  has_clusters() ? normalise_rows_kernel<kClusterBlocks> : normalise_rows_kernel<1>,
                  blocks, dim3(blocks, static_cast<unsigned>(logits.shape[0])), kThreads, 0, stream,
                  rows, num_candidates.as<int32_t>());
}

void beam_candidates(const Tensor& logits, const Tensor& num_candidates, const Tensor& tokens,
                     const Tensor& logprobs, int64_t stream) {
  const char* const op = "beam_candidates";
  const Logits rows = check_logits(op, logits, num_candidates, "num_candidates");
  check_shape(op, "tokens", tokens, {logits.shape[0], -1});
  check_candidates(op, "tokens", tokens, tokens, DType::kInt32);
  check_candidates(op, "logprobs", logprobs, tokens, DType::kFloat32);
  check_that(op, "tokens", tokens.shape[1] <= logits.shape[1],
             "has more columns than there are logits");
  if (logits.shape[0] == 0 || tokens.shape[1] == 0) return;
  const bool shares = has_clusters() && logits.shape[0] <= kClusterRows;
  const unsigned blocks = shares ? kClusterBlocks : 1;
  launch_clusters(
      op, shares ? beam_candidates_kernel<kClusterBlocks> : beam_candidates_kernel<1>, blocks,
      dim3(blocks, static_cast<unsigned>(logits.shape[0])), kThreads, 0, stream, rows,
      num_candidates.as<int32_t>(),
      Candidates{tokens.as<int32_t>(), logprobs.as<float>(), static_cast<int>(tokens.shape[1])});
}

}  // namespace ft::cuda
