// SPDX-License-Identifier: BSD-3-Clause
// Attention for what the tensor cores do not take: float32, head sizes that are no multiple of 8,
// unaligned tensors. A warp computes one query of one head, 32 keys at a time.
#pragma once

#include "cuda/attention/attention.cuh"
#include "cuda/launch.h"
#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "device/vec.cuh"

namespace ft::cuda {

constexpr int kPlainWarps = 4;

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, width));
  return x;
}

template <typename S, typename A>
__device__ void attend_plainly(const A& a, int sequence, int token, int head, float* query,
                               int lane) {
  using T = typename A::Element;
  constexpr int kLaneDims = static_cast<int>(kMaxHeadDim) / 32;
  for (int dim = lane; dim < a.head_dim; dim += 32) {
    query[dim] = device::to_float(a.query(token, head)[dim]);
  }
  __syncwarp();
  const S score(a);
  const auto logit_of = logit_function(a, score, sequence, head);
  const T* keys = a.keys(a.kv_head(head));
  const T* values = a.values(a.kv_head(head));
  const int num_keys = a.num_keys(sequence);
  const int position = num_keys - (a.cu_seqlens_q[sequence + 1] - token);
  const int oldest = a.oldest_visible(position), newest = a.newest_visible(position, num_keys);
  float best = -INFINITY, total = 0.0f, sums[kLaneDims] = {};
  for (int first = oldest / 32 * 32; first <= newest; first += 32) {
    const int key = first + lane;
    const bool visible = key >= oldest && key <= newest;
    int64_t at = 0;
    float logit = -INFINITY;
    if (visible) {
      at = a.offset_of_key(sequence, key);
      float dot = 0.0f;
      for (int dim = 0; dim < a.head_dim; ++dim) {
        dot += query[dim] * device::to_float(keys[at + dim]);
      }
      logit = logit_of(dot, position, key) * score.exponent_factor();
    }
    const float next = fmaxf(best, warp_max(logit));
    const float correction = exp2f(best - next), weight = exp2f(logit - next);
    best = next;
    total = total * correction + device::warp_sum(weight);
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) sums[i] *= correction;
    for (int i = 0; i < 32; ++i) {
      if (first + i < oldest || first + i > newest) continue;
      const float share = __shfl_sync(0xffffffffu, weight, i);
      const int64_t row = __shfl_sync(0xffffffffu, at, i);
#pragma unroll
      for (int j = 0; j < kLaneDims; ++j) {
        const int dim = j * 32 + lane;
        if (dim < a.head_dim) sums[j] += share * device::to_float(values[row + dim]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kLaneDims; ++i) {
    const int dim = i * 32 + lane;
    if (dim < a.head_dim) a.result(token, head)[dim] = device::from_float<T>(sums[i] / total);
  }
}

// `skip_single`: sequences with one query are left to another kernel.
template <typename A, typename S>
__global__ void __launch_bounds__(kPlainWarps * 32) plain_kernel(const A a, bool skip_single) {
  __shared__ float queries[kPlainWarps][kMaxHeadDim];
  __shared__ int sequence;
  const int token = blockIdx.x, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) sequence = -1;
  __syncthreads();
  for (int i = threadIdx.x; i < a.num_sequences; i += blockDim.x) {
    if (a.cu_seqlens_q[i] <= token && token < a.cu_seqlens_q[i + 1]) sequence = i;
  }
  __syncthreads();
  device::wait_for_predecessor();
  const int head = blockIdx.y * kPlainWarps + warp;
  if (sequence < 0 || head >= a.num_heads) return;  // a token that fills up the batch
  if (skip_single && a.num_queries(sequence) == 1) return;
  attend_plainly<S>(a, sequence, token, head, queries[warp], threadIdx.x % 32);
}

template <typename S, typename A>
void launch_plain_with(const A& attention, bool skip_single, int64_t stream) {
  const dim3 grid(attention.num_tokens, (attention.num_heads + kPlainWarps - 1) / kPlainWarps);
  launch(A::kOp, plain_kernel<A, S>, grid, kPlainWarps * 32, 0, stream, attention, skip_single);
}

}  // namespace ft::cuda
