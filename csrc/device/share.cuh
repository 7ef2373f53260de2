// SPDX-License-Identifier: BSD-3-Clause
// A token's share, exp(logit - largest logit), and its mass, as `shares` and `sample` in
// ops/sampling.py define them: every operation is rounded by itself, so that the bits are those of
// any other device.
#pragma once

#include <cstdint>

namespace ft::device {

constexpr float kMassOfBest = 0x1p40f;
constexpr float kSmallestShare = 0x1p-40f;  // of those with a mass
constexpr int kShareBits = 29;              // of share_rank, where there is a mass

__device__ __forceinline__ float share_of(float logit, float largest) {
  constexpr float kExp2[] = {1.535336188e-4f,
                             1.339887440e-3f,
                             9.618437357e-3f,
                             5.550332471e-2f,
                             2.402264791e-1f,
                             6.931472029e-1f,
                             1.0f};
  float exponent = __fmul_rn(__fsub_rn(logit, largest), 1.44269504f);
  exponent = exponent > -64.0f ? exponent : -64.0f;  // also where it is NaN
  const float whole = rintf(exponent);
  const float fraction = __fsub_rn(exponent, whole);
  float share = kExp2[0];
#pragma unroll
  for (int i = 1; i < 7; ++i) share = __fadd_rn(__fmul_rn(share, fraction), kExp2[i]);
  return __fmul_rn(share, __int_as_float((static_cast<int>(whole) + 127) << 23));
}

__device__ __forceinline__ uint64_t mass_of(float share) {
  return static_cast<uint64_t>(__fmul_rn(share, kMassOfBest));
}

// 0 for the share of the best token, rising as shares fall, different for different shares.
__device__ __forceinline__ uint32_t share_rank(float share) {
  return __float_as_uint(1.0f) - __float_as_uint(share);
}

// The share that has this rank.
__device__ __forceinline__ float share_at(uint32_t rank) {
  return __uint_as_float(__float_as_uint(1.0f) - rank);
}

}  // namespace ft::device
