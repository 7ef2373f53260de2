// SPDX-License-Identifier: BSD-3-Clause
// What the skinny products need beside copies and tensor cores: barriers of some warps, and four
// int8 widened at once.
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

// One instruction for (x & mask) | bits, and for (x & mask) ^ bits. The compiler takes two, because
// it keeps no constant in a register.
__device__ __forceinline__ uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(x), "r"(mask), "r"(bits));
  return result;
}

__device__ __forceinline__ uint32_t and_xor(uint32_t x, uint32_t mask, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(result) : "r"(x), "r"(mask), "r"(bits));
  return result;
}

// The int8 in bytes 0 and 2 of `four`, exactly, as two halves of a register. bfloat16 has 7 bits
// behind its leading one: 128 + (the low 7 bits), less 128 or, where the sign bit is set, 256.
__device__ __forceinline__ uint32_t widen_even(uint32_t four, __nv_bfloat16) {
  const uint32_t low = and_or(four, 0x007F007F, 0x43004300);
  const uint32_t less = and_or(four, 0x00800080, 0x43004300);
  return bits<uint32_t>(__hsub2(bits<__nv_bfloat162>(low), bits<__nv_bfloat162>(less)));
}

// float16 has 10 bits: 1024 + (the value + 128), less 1152.
__device__ __forceinline__ uint32_t widen_even(uint32_t four, __half) {
  const uint32_t high = and_xor(four, 0x00FF00FF, 0x64806480);
  return bits<uint32_t>(__hsub2(bits<__half2>(high), bits<__half2>(0x64806480u)));
}

// Of four 16-bit elements 0 1 2 3 makes 0 2 1 3: widen_even gives weights 0 and 2 of four, and of
// the four shifted by a byte, weights 1 and 3.
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
