// SPDX-License-Identifier: BSD-3-Clause
// What a warp does with a group of keys in attention with single queries. Products are K q^T and
// V^T p^T, keys and dims being the rows of the tensor cores.
#pragma once

#include "cuda/attention/decode_state.cuh"
#include "device/tensor_core.cuh"

namespace ft::cuda {

// The queries of an item as the second operand: lane (g, t) holds head g, dims 16 i + 2t and + 8.
template <typename T, int kHeadDim>
__device__ void load_queries(uint32_t (&queries)[kHeadDim / 16][2], const Attention<T>& a,
                             const DecodeItem& item, int lane) {
  const bool valid = lane / 4 < item.num_heads;
  const T* query = a.query(item.token, item.head + (valid ? lane / 4 : 0));
#pragma unroll
  for (int i = 0; i < kHeadDim / 8; ++i) {
    const int dim = i * 8 + lane % 4 * 2;
    queries[i / 2][i % 2] =
        valid && dim < a.head_dim ? *reinterpret_cast<const uint32_t*>(query + dim) : 0;
  }
}

// One group of keys for all heads of the item: the scores of keys g, g, g + 8, g + 8 of the group
// and heads 2t, 2t + 1, 2t, 2t + 1.
template <typename T, int kHeadDim>
__device__ void score_keys(float (&scores)[4], const char* keys,
                           const uint32_t (&queries)[kHeadDim / 16][2], int lane) {
  float even[4] = {}, odd[4] = {};  // two chains of products, for half the latency
  const char* row = keys + lane % 16 * DecodeShape<kHeadDim>::kRowBytes + lane / 16 * 16;
#pragma unroll
  for (int i = 0; i < kHeadDim / 16; ++i) {
    uint32_t tile[4];
    device::load_matrices(tile, row + i * 32);
    device::product<T>(i % 2 == 0 ? even : odd, tile, queries[i][0], queries[i][1]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] = even[i] + odd[i];
}

// Turns scores into weights and makes room for them in the state. `exponent`: of score i, whose dot
// product it gets; the weight is 2 to its power.
template <int kHeadDim, typename Exponent>
__device__ void weigh(float (&scores)[4], DecodeState<kHeadDim>& state, const Exponent& exponent) {
  float next_best[2] = {state.best[0], state.best[1]};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scores[i] = exponent(i, scores[i]);
    next_best[i % 2] = fmaxf(next_best[i % 2], scores[i]);
  }
#pragma unroll
  for (int column = 0; column < 2; ++column) {
#pragma unroll
    for (int width = 4; width < 32; width *= 2) {
      next_best[column] =
          fmaxf(next_best[column], __shfl_xor_sync(0xffffffffu, next_best[column], width));
    }
  }
  state.rescale(next_best);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scores[i] = device::exp2_fast(scores[i] - state.best[i % 2]);
    state.total[i % 2] += scores[i];  // of the lane's keys; summed over lanes at the end
  }
}

template <typename T, int kHeadDim>
__device__ void add_values(DecodeState<kHeadDim>& state, const char* values,
                           const float (&weights)[4], int lane) {
  const uint32_t low = device::transpose(device::pack<T>(weights[0], weights[1]));
  const uint32_t high = device::transpose(device::pack<T>(weights[2], weights[3]));
  const char* row =
      values + (lane % 8 + lane / 16 * 8) * DecodeShape<kHeadDim>::kRowBytes + lane / 8 % 2 * 16;
#pragma unroll
  for (int i = 0; i < kHeadDim / 16; ++i) {
    uint32_t tile[4];
    device::load_transposed(tile, row + i * 32);
    device::product<T>(state.sums[i], tile, low, high);
  }
}

}  // namespace ft::cuda
