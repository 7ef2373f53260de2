// SPDX-License-Identifier: BSD-3-Clause
// The turns of queries and of the newest key by the positions of their tokens, as attention in
// decoder_stack has them. `angles`: [D], the cosines and then the sines of pairs (i, i + D/2).
#pragma once

#include "device/rotation.cuh"
#include "device/skinny.cuh"
#include "device/vec.cuh"

namespace ft::cuda::stack {

// Of queries as the second operand of a product (load_queries): a lane has both of a pair.
template <typename T, int kHeadDim>
__device__ __forceinline__ void turn_queries(uint32_t (&queries)[kHeadDim / 16][2],
                                             const float* angles, int lane) {
  using Pair = device::Pack<T, 2>;
  constexpr int kWords = kHeadDim / 16;  // of half a head; even
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const int at = i * 8 + lane % 4 * 2;
    const float2 cos = *reinterpret_cast<const float2*>(angles + at);
    const float2 sin = *reinterpret_cast<const float2*>(angles + at + kHeadDim / 2);
    uint32_t &first = queries[i / 2][i % 2], &second = queries[(i + kWords) / 2][i % 2];
    const Pair x = device::bits<Pair>(first), y = device::bits<Pair>(second);
    first =
        device::bits<uint32_t>(Pair{device::turned_first(x.lanes[0], y.lanes[0], cos.x, sin.x),
                                    device::turned_first(x.lanes[1], y.lanes[1], cos.y, sin.y)});
    second =
        device::bits<uint32_t>(Pair{device::turned_second(x.lanes[0], y.lanes[0], cos.x, sin.x),
                                    device::turned_second(x.lanes[1], y.lanes[1], cos.y, sin.y)});
  }
}

// Of a key whose packs of 8 lie in the first lanes of half a warp; the other half's stay. All
// lanes.
template <typename T, int kHeadDim>
__device__ __forceinline__ void turn_key(uint4& pack, const float* angles, int lane) {
  using P = device::Pack<T, 8>;
  constexpr int kApart = kHeadDim / 2 / 8;  // lanes
  const uint4 other{
      __shfl_xor_sync(0xffffffffu, pack.x, kApart), __shfl_xor_sync(0xffffffffu, pack.y, kApart),
      __shfl_xor_sync(0xffffffffu, pack.z, kApart), __shfl_xor_sync(0xffffffffu, pack.w, kApart)};
  if (lane >= kHeadDim / 8) return;
  P own = device::bits<P>(pack);
  const P partner = device::bits<P>(other);
  const bool is_first = lane < kApart;
  const float* const cos = angles + lane % kApart * 8;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const T x = is_first ? own.lanes[i] : partner.lanes[i];
    const T y = is_first ? partner.lanes[i] : own.lanes[i];
    own.lanes[i] = is_first ? device::turned_first(x, y, cos[i], cos[kHeadDim / 2 + i])
                            : device::turned_second(x, y, cos[i], cos[kHeadDim / 2 + i]);
  }
  pack = device::bits<uint4>(own);
}

}  // namespace ft::cuda::stack
