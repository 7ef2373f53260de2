// SPDX-License-Identifier: BSD-3-Clause
// The exponential as the special function unit computes it.
#pragma once

namespace ft::device {

// 2^x within 2 units in the last place; 0 for -infinity and where the result would be subnormal.
__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace ft::device
