// SPDX-License-Identifier: BSD-3-Clause
// What turns a row's logits into log-probabilities, found by a cluster of blocks in sums whose
// order depends on the length of the row alone.
#pragma once

#include "device/cluster.cuh"
#include "device/row.cuh"

namespace ft::device {

inline constexpr int kNormaliserThreads = 512;

// Logits to natural logs of their softmax.
struct Normaliser {
  float largest, log_sum;
  __device__ float operator()(float logit) const { return logit - largest - log_sum; }
};

template <int kBlocks>
struct NormaliserShared {
  static constexpr int kWarps = kNormaliserThreads / 32;
  struct Reduction {
    float of_warps[kWarps], of_blocks[kBlocks];
  };
  Reduction maxima, sums;
};

// Combines what all threads of the cluster bring, for each of them. Waits for the blocks to have
// arrived. shared: used for one reduction only.
template <int kBlocks, typename Combine>
__device__ float reduce_over_cluster(typename NormaliserShared<kBlocks>::Reduction& shared, float x,
                                     Combine combine) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) {
    x = combine(x, __shfl_xor_sync(0xffffffffu, x, width));
  }
  if (threadIdx.x % 32 == 0) shared.of_warps[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x < kBlocks) {
    float of_block = shared.of_warps[0];
    for (int i = 1; i < NormaliserShared<kBlocks>::kWarps; ++i) {
      of_block = combine(of_block, shared.of_warps[i]);
    }
    *Cluster<kBlocks>::at(&shared.of_blocks[Cluster<kBlocks>::rank()], threadIdx.x) = of_block;
  }
  Cluster<kBlocks>::sync();
  float of_row = shared.of_blocks[0];
  for (int i = 1; i < kBlocks; ++i) of_row = combine(of_row, shared.of_blocks[i]);
  return of_row;
}

// Called by all blocks of the cluster, whose segments make up the row.
template <int kBlocks>
__device__ Normaliser normaliser_of(NormaliserShared<kBlocks>& shared, const Segment& segment) {
  Cluster<kBlocks>::arrive();
  float largest = -INFINITY;
  for_each(segment, [&](int, float logit) { largest = fmaxf(largest, logit); });
  Cluster<kBlocks>::wait();
  largest = reduce_over_cluster<kBlocks>(shared.maxima, largest,
                                         [](float a, float b) { return fmaxf(a, b); });
  float sum = 0.0f;
  for_each(segment, [&](int, float logit) { sum += expf(logit - largest); });
  sum = reduce_over_cluster<kBlocks>(shared.sums, sum, [](float a, float b) { return a + b; });
  return {largest, logf(sum)};
}

}  // namespace ft::device
