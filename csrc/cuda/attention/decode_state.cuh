// SPDX-License-Identifier: BSD-3-Clause
// The online softmax of attention with single queries, of a warp, and how several become one: warps
// of a block in shared memory, chunks of a sequence in the workspace.
#pragma once

#include "cuda/attention/decode_plan.cuh"
#include "device/tensor_core.cuh"
#include "device/ticket.cuh"

namespace ft::cuda {

// The warps' states of one item, in shared memory.
template <int kHeadDim>
struct DecodeStates {
  float* sums;     // [warp, head, kSumStride]
  float2* totals;  // [warp, head]: best score, total weight
  int num_warps, num_heads;

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

  // Adds what a block has left of `chunk` in the workspace.
  template <typename T>
  __device__ void add(const Attention<T>& a, const DecodeItem& item, int chunk, int lane) {
    const auto at = [&](int column) {
      return static_cast<int64_t>(chunk) * a.num_heads + item.head + lane % 4 * 2 + column;
    };
    const auto is_head = [&](int column) { return lane % 4 * 2 + column < item.num_heads; };
    float2 found[2];
    float next_best[2];
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      found[column] = is_head(column) ? __ldcg(&a.partial_totals[at(column)]) : float2{0.0f, 0.0f};
      next_best[column] = fmaxf(best[column], found[column].x);
    }
    rescale(next_best);
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      if (!is_head(column)) continue;
      const float weight = device::exp2_fast(found[column].x - best[column]);
      total[column] += weight * found[column].y;
      const float* sum = a.partial_sums + at(column) * a.head_dim;
#pragma unroll
      for (int i = 0; i < kHeadDim / 8; ++i) {
        const int dim = i * 8 + lane / 4;
        if (dim < a.head_dim) sums[i / 2][i % 2 * 2 + column] += weight * __ldcg(sum + dim);
      }
    }
  }
};

// Merges the warps' states in their order: into the result, or into the workspace if `is_partial`.
template <typename T, int kHeadDim>
__device__ void merge_warps(const Attention<T>& a, const DecodeItem& item,
                            const DecodeStates<kHeadDim>& states, bool is_partial) {
  if (is_partial && item.chunk >= a.num_partials) __trap();  // the workspace is too small
  for (int i = threadIdx.x; i < item.num_heads * (kHeadDim / 4); i += blockDim.x) {
    const int head = i / (kHeadDim / 4), dim = i % (kHeadDim / 4) * 4;
    if (dim >= a.head_dim) continue;
    float best = -INFINITY, total = 0.0f;
    float4 sum{0.0f, 0.0f, 0.0f, 0.0f};
    for (int warp = 0; warp < states.num_warps; ++warp) {
      best = fmaxf(best, states.total(warp, head).x);
    }
    for (int warp = 0; warp < states.num_warps; ++warp) {
      const float weight = device::exp2_fast(states.total(warp, head).x - best);
      const float4 part = *reinterpret_cast<const float4*>(states.sum(warp, head) + dim);
      total += weight * states.total(warp, head).y;
      sum.x += weight * part.x;
      sum.y += weight * part.y;
      sum.z += weight * part.z;
      sum.w += weight * part.w;
    }
    if (is_partial) {
      const int64_t at = static_cast<int64_t>(item.chunk) * a.num_heads + item.head + head;
      *reinterpret_cast<float4*>(a.partial_sums + at * a.head_dim + dim) = sum;
      if (dim == 0) a.partial_totals[at] = {best, total};
    } else {
      const float scale = 1.0f / total;
      const uint2 packed{device::pack<T>(sum.x * scale, sum.y * scale),
                         device::pack<T>(sum.z * scale, sum.w * scale)};
      T* to = a.result(item.token, item.head + head) + dim;
      *reinterpret_cast<uint2*>(to) = packed;
    }
  }
}

// Whether this block is the last of the item's sequence and heads to leave its part in the
// workspace.
template <typename T>
__device__ bool is_last(const Attention<T>& a, const DecodeItem& item) {
  __shared__ bool result;
  __syncthreads();  // all threads have left their part
  if (threadIdx.x == 0) {
    result = device::is_last_of(item.num_chunks, &a.counters[item.counter]);
  }
  __syncthreads();
  return result;
}

template <typename T, int kHeadDim>
__device__ void merge_chunks(const Attention<T>& a, const DecodeItem& item,
                             const DecodeStates<kHeadDim>& states, int warp, int lane) {
  DecodeState<kHeadDim> state;
  const int end = item.first_chunk + item.num_chunks;
  for (int chunk = item.first_chunk + warp; chunk < end; chunk += states.num_warps) {
    state.add(a, item, chunk, lane);
  }
  state.store(states, warp, lane, item.num_heads);
  __syncthreads();
  merge_warps<T>(a, item, states, false);
}

}  // namespace ft::cuda
