// SPDX-License-Identifier: BSD-3-Clause
// The instructions of the skinny products that have no C++ name: copies into shared memory that run
// beside the threads, products of 16 x 16 by 16 x 8, and four int8 widened at once. sm_80 and
// later.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace ft::device {

// How the second cache treats data that is read once.
__device__ __forceinline__ uint64_t evict_first_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// 16 bytes from global to shared memory; zeros where `valid` is false, and `from` is not read then.
// The second cache takes in the 256 bytes around it.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid,
                                           uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2, %3;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(valid ? 16 : 0), "l"(policy)
               : "memory");
}

// Ends a group of this thread's copies, which may be empty.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `kPending` of this thread's newest groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// A barrier of `threads` threads; 0 is the one of __syncthreads().
__device__ __forceinline__ void named_barrier(int name, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// acc += A [16, 16] x B [16, 8]. Lane (g, t) = (lane / 4, lane % 4) holds, two elements to a
// register, of A: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8); of B: (2t, g), (2t + 8, g);
// of acc the elements (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
__device__ __forceinline__ void product(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1, __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7},"
      " {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void product(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7},"
      " {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
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

// Of eight 16-bit elements 0 1 2 3 4 5 6 7 makes 0 2 1 3 4 6 5 7: widen_even gives weights 0 and 2
// of four, and of the four shifted by a byte, weights 1 and 3.
__device__ __forceinline__ uint4 interleave(uint4 eight) {
  constexpr uint32_t kFirst = 0x5410, kSecond = 0x7632;
  return {__byte_perm(eight.x, eight.y, kFirst), __byte_perm(eight.x, eight.y, kSecond),
          __byte_perm(eight.z, eight.w, kFirst), __byte_perm(eight.z, eight.w, kSecond)};
}

}  // namespace ft::device
