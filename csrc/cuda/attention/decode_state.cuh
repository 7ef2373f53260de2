// SPDX-License-Identifier: BSD-3-Clause
// The online softmax of attention with single queries, of a warp.
#pragma once

#include "cuda/attention/decode_plan.cuh"
#include "device/exp2.cuh"

namespace ft::cuda {

// The warps' states of one item, in shared memory.
template <int kHeadDim>
struct DecodeStates {
  float* sums;     // [warp, head, kSumStride]
  float2* totals;  // [warp, head]: best score, total weight
  int num_heads;

  __device__ float* sum(int warp, int head) const {
    return sums + (warp * num_heads + head) * DecodeShape<kHeadDim>::kSumStride;
  }
  __device__ float2& total(int warp, int head) const { return totals[warp * num_heads + head]; }
};

// Online softmax of a warp over 8 heads. The lane holds heads 2t and 2t + 1, and of their sums dims
// 16 i + g and 16 i + g + 8: sums[i] = (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <int kHeadDim>
struct DecodeState {
  float best[2] = {-INFINITY, -INFINITY};  // times the exponent's factor
  float total[2] = {0.0f, 0.0f};
  float sums[kHeadDim / 16][4] = {};

  __device__ void rescale(const float (&next_best)[2]) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const float correction = device::exp2_fast(best[column] - next_best[column]);
      best[column] = next_best[column];
      total[column] *= correction;
#pragma unroll
      for (int i = 0; i < kHeadDim / 16; ++i) {
        sums[i][column] *= correction;
        sums[i][column + 2] *= correction;
      }
    }
  }

  // From the lane's own keys to all of the warp's.
  __device__ void sum_totals() {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
#pragma unroll
      for (int width = 4; width < 32; width *= 2) {
        total[column] += __shfl_xor_sync(0xffffffffu, total[column], width);
      }
    }
  }

  __device__ void store(const DecodeStates<kHeadDim>& to, int warp, int lane, int num_heads) const {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const int head = lane % 4 * 2 + column;
      if (head >= num_heads) continue;
      if (lane < 4) to.total(warp, head) = {best[column], total[column]};
      float* sum = to.sum(warp, head) + lane / 4;
#pragma unroll
      for (int i = 0; i < kHeadDim / 16; ++i) {
        sum[i * 16] = sums[i][column];
        sum[i * 16 + 8] = sums[i][column + 2];
      }
    }
  }
};

}  // namespace ft::cuda
