// SPDX-License-Identifier: BSD-3-Clause
// The turn of a pair of a head by its position (Su et al., arXiv 2104.09864), with the same bits
// wherever it is computed.
#pragma once

#include "device/vec.cuh"

namespace ft::device {

template <typename T>
__device__ __forceinline__ T turned_first(T first, T second, float cos, float sin) {
  return from_float<T>(__fmaf_rn(to_float(first), cos, -__fmul_rn(to_float(second), sin)));
}
template <typename T>
__device__ __forceinline__ T turned_second(T first, T second, float cos, float sin) {
  return from_float<T>(__fmaf_rn(to_float(second), cos, __fmul_rn(to_float(first), sin)));
}

}  // namespace ft::device
