// SPDX-License-Identifier: BSD-3-Clause
// A logit and its index as one integer, which is greater for a larger logit and, among equal ones,
// for the lower index. No logit has rank 0.
#pragma once

#include <cstdint>

namespace ft::device {

__device__ __forceinline__ uint64_t rank_of(float logit, int index) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 equals 0
  const uint32_t key = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
  return static_cast<uint64_t>(key) << 32 | ~static_cast<uint32_t>(index);
}

__device__ __forceinline__ float logit_of(uint64_t rank) {
  const uint32_t key = static_cast<uint32_t>(rank >> 32);
  return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

__device__ __forceinline__ int index_of(uint64_t rank) {
  return static_cast<int>(~static_cast<uint32_t>(rank));
}

}  // namespace ft::device
