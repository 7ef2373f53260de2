// SPDX-License-Identifier: BSD-3-Clause
// The instructions of Hopper that have no C++ name: mbarriers, bulk tensor copies, warpgroup
// products. (PTX ISA 8.x, sections "mbarrier", "cp.async.bulk.tensor", "wgmma".) Only for sm_90a.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FT_HOPPER 1
#endif

namespace ft::device {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

#ifdef FT_HOPPER

// How the second cache treats what a copy brings in.
constexpr uint64_t kEvictFirst = 0x12F0000000000000ull;
constexpr uint64_t kEvictLast = 0x14F0000000000000ull;

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;");
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

__device__ __forceinline__ void barrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void barrier_wait(uint64_t* barrier, int phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(phase)
      : "memory");
}

// A box of a two-dimensional tensor whose first element is [row, column].
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap& map, int row, int column,
                                         uint64_t* barrier, uint64_t cache_hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier)), "l"(cache_hint)
      : "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Descriptor of a tile in shared memory: rows of 128 bytes, swizzled, the 8-row groups side by
// side.
__device__ __forceinline__ uint64_t tile_descriptor(const void* tile) {
  constexpr uint64_t kGroupBytes = 1024, kSwizzle128 = 1;
  return (shared_address(tile) & 0x3FFFF) >> 4 | 1ull << 16 | (kGroupBytes >> 4) << 32 |
         kSwizzle128 << 62;
}

// To be called before a warpgroup's first product and after its accumulators were touched.
__device__ __forceinline__ void product_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void product_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most `kPending` committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void product_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define FT_ACC4(i) "+f"(acc[i]), "+f"(acc[i + 1]), "+f"(acc[i + 2]), "+f"(acc[i + 3])
#define FT_ACC8(i) FT_ACC4(i), FT_ACC4(i + 4)
#define FT_ACC16(i) FT_ACC8(i), FT_ACC8(i + 8)
#define FT_PRODUCT(tokens, type, registers, a, b, ...)                                            \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" tokens "k16.f32." type "." type " {" registers \
               "}, %" a ", %" b ", 1, 1, 1, 0, 0;"                                                \
               : __VA_ARGS__                                                                      \
               : "l"(rows), "l"(columns))

#define FT_REGISTERS4 "%0,%1,%2,%3"
#define FT_REGISTERS8 FT_REGISTERS4 ",%4,%5,%6,%7"
#define FT_REGISTERS16 FT_REGISTERS8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define FT_REGISTERS32 \
  FT_REGISTERS16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"

#define FT_DEFINE_PRODUCT(T, type)                                                                \
  __device__ __forceinline__ void product(float (&acc)[4], uint64_t rows, uint64_t columns, T) {  \
    FT_PRODUCT("8", type, FT_REGISTERS4, "4", "5", FT_ACC4(0));                                   \
  }                                                                                               \
  __device__ __forceinline__ void product(float (&acc)[8], uint64_t rows, uint64_t columns, T) {  \
    FT_PRODUCT("16", type, FT_REGISTERS8, "8", "9", FT_ACC8(0));                                  \
  }                                                                                               \
  __device__ __forceinline__ void product(float (&acc)[16], uint64_t rows, uint64_t columns, T) { \
    FT_PRODUCT("32", type, FT_REGISTERS16, "16", "17", FT_ACC16(0));                              \
  }                                                                                               \
  __device__ __forceinline__ void product(float (&acc)[32], uint64_t rows, uint64_t columns, T) { \
    FT_PRODUCT("64", type, FT_REGISTERS32, "32", "33", FT_ACC16(0), FT_ACC16(16));                \
  }

// acc += rows [64, 16] x columns [tokens, 16]^T, both by tile descriptor; the last argument names
// the type. A warp's lane holds rows lane / 4 and lane / 4 + 8 of the warp's 16, columns lane % 4 *
// 2 and the next of every 8: acc[4 j] .. acc[4 j + 3] are (row, column), (row, column + 1), (row +
// 8, ...).
FT_DEFINE_PRODUCT(__nv_bfloat16, "bf16")
FT_DEFINE_PRODUCT(__half, "f16")

#undef FT_DEFINE_PRODUCT
#undef FT_REGISTERS32
#undef FT_REGISTERS16
#undef FT_REGISTERS8
#undef FT_REGISTERS4
#undef FT_PRODUCT
#undef FT_ACC16
#undef FT_ACC8
#undef FT_ACC4

#endif  // FT_HOPPER

}  // namespace ft::device
