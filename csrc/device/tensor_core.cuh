// SPDX-License-Identifier: BSD-3-Clause
// Products of small matrices by a whole warp, and moves between shared memory and their register
// layout. (PTX ISA, "mma.m16n8k16", "ldmatrix", "movmatrix"; sm_80 and later) Everywhere a lane is
// (g, t) = (lane / 4, lane % 4), and a register holds two 16-bit elements, the first in the low
// half.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace ft::device {

template <typename T>
__device__ __forceinline__ uint32_t pack(float first, float second);

template <>
__device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float first, float second) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&both);
}

template <>
__device__ __forceinline__ uint32_t pack<__half>(float first, float second) {
  const __half2 both = __floats2half2_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// acc += A [16, 16] x B [16, 8]. A: rows g, g + 8, g, g + 8 at columns 2t, 2t, 2t + 8, 2t + 8; B:
// rows 2t (b0) and 2t + 8 (b1) of column g; acc: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t +
// 1).
template <typename T>
__device__ __forceinline__ void product(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1);

#define FT_DEFINE_PRODUCT(T, type)                                                                 \
  template <>                                                                                      \
  __device__ __forceinline__ void product<T>(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, \
                                             uint32_t b1) {                                        \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                     \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                     \
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])                                   \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                           \
  }

FT_DEFINE_PRODUCT(__nv_bfloat16, "bf16")
FT_DEFINE_PRODUCT(__half, "f16")

#undef FT_DEFINE_PRODUCT

// The other way: element pairs of four 8 x 8 matrices to shared memory, addresses as there (sm_90).
__device__ __forceinline__ void store_matrices(void* row, const uint32_t (&from)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(row))),
               "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
#endif
}

// Four 8 x 8 matrices from shared memory: lane i gives the address of row i % 8 of matrix i / 8 (16
// bytes, aligned) and gets elements 2t and 2t + 1 of row g of each.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// The same, but of each matrix elements (2t, g) and (2t + 1, g).
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// An 8 x 8 matrix of which the lane holds (g, 2t) and (g, 2t + 1): gives (2t, g) and (2t + 1, g).
__device__ __forceinline__ uint32_t transpose(uint32_t pair) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

}  // namespace ft::device
