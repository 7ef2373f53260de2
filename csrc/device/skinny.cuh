// SPDX-License-Identifier: BSD-3-Clause
// What the skinny products need beside copies and tensor cores: barriers of some warps, and x in
// another order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace ft::device {

// A barrier of `threads` threads; 0 is the one of __syncthreads().
__device__ __forceinline__ void named_barrier(int name, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

template <typename To, typename From>
__device__ __forceinline__ To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  return *reinterpret_cast<const To*>(&from);
}

// Of four 16-bit elements 0 1 2 3 makes 0 2 1 3: the order of packed int8 weights (int8.cuh).
__device__ __forceinline__ uint2 interleave(uint2 four) {
  constexpr uint32_t kFirst = 0x5410, kSecond = 0x7632;
  return {__byte_perm(four.x, four.y, kFirst), __byte_perm(four.x, four.y, kSecond)};
}

// The same of each four of eight.
__device__ __forceinline__ uint4 interleave(uint4 eight) {
  const uint2 first = interleave(uint2{eight.x, eight.y});
  const uint2 second = interleave(uint2{eight.z, eight.w});
  return {first.x, first.y, second.x, second.y};
}

}  // namespace ft::device
