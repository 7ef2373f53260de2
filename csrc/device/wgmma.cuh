// SPDX-License-Identifier: BSD-3-Clause
// Products of a warpgroup, 128 threads, which run while its threads go on. (PTX ISA, "wgmma"; only
// for sm_90a) Operands in shared memory are swizzled over 128 bytes, as tensor maps copy them:
// strips of 64 elements of 16 bits, of their rows eight one behind the other.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "device/hopper.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define FT_WGMMA 1
#endif

namespace ft::device {

#ifdef FT_WGMMA

// What a product reads of a strip that starts at `start`; `group_bytes`: from eight rows to the
// next, `strip_bytes`: from one strip to the next, where a product reads several. What lies `bytes`
// behind is named by adding bytes / 16.
__device__ __forceinline__ uint64_t strip_descriptor(const void* start, int group_bytes,
                                                     int strip_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | static_cast<uint64_t>(group_bytes / 16) << 32 |
         static_cast<uint64_t>(strip_bytes / 16) << 16 | (shared_address(start) >> 4);
}

// Gives a warpgroup more registers, or fewer, so that others can have more: once each, by all its
// threads, in a kernel whose launch bounds name one block.
template <int kRegisters>
__device__ __forceinline__ void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Before the first product, and after registers of one were written.
__device__ __forceinline__ void products_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most so many of the latest groups that were committed run.
template <int kRunning>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kRunning) : "memory");
}

// Keeps what reads or writes the registers on its side of this place.
template <int kCount>
__device__ __forceinline__ void pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kRows, int kCount>
__device__ __forceinline__ void pin(uint32_t (&registers)[kRows][kCount]) {
#pragma unroll
  for (int i = 0; i < kRows * kCount; ++i) {
    asm volatile("" : "+r"(registers[i / kCount][i % kCount])::"memory");
  }
}

// A warpgroup's rows are 16 of each warp in turn; of them and of columns, a lane holds those of
// `product` in tensor_core.cuh: accumulator 4n + i is element i of the n-th 8 columns.

// acc [64, N] = or += A [64, 16] x B [N, 16]^T, both in shared memory, their rows in strips.
template <typename T, int kSize>
__device__ void multiply_rows(float (&acc)[kSize], uint64_t a, uint64_t b, int accumulate);

// acc [64, N] += A [64, 16] x B [16, N]: A in registers, B in strips of its columns.
template <typename T, int kSize>
__device__ void multiply_columns(float (&acc)[kSize], const uint32_t (&a)[4], uint64_t b);

// acc [64, N] += A [64, 16] x B [N, 16]^T: A in registers, B in strips of its rows.
template <typename T, int kSize>
__device__ void multiply_strips(float (&acc)[kSize], const uint32_t (&a)[4], uint64_t b);

#define FT_LIST_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define FT_LIST_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FT_LIST_32                                                                                 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20," \
  " %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FT_LIST_24 FT_LIST_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define FT_LIST_40 FT_LIST_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define FT_LIST_48 FT_LIST_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define FT_LIST_64                                                                               \
  FT_LIST_40                                                                                     \
  ", %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, " \
  "%58, %59, %60, %61, %62, %63"
#define FT_LIST_96                                                                               \
  FT_LIST_64                                                                                     \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FT_LIST_128                                                                              \
  FT_LIST_64                                                                                     \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "   \
  "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, "   \
  "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define FT_ACC_FROM(i)                                                                  \
  "+f"(acc[i]), "+f"(acc[i + 1]), "+f"(acc[i + 2]), "+f"(acc[i + 3]), "+f"(acc[i + 4]), \
      "+f"(acc[i + 5]), "+f"(acc[i + 6]), "+f"(acc[i + 7])
#define FT_ACC_8 FT_ACC_FROM(0)
#define FT_ACC_16 FT_ACC_FROM(0), FT_ACC_FROM(8)
#define FT_ACC_32 FT_ACC_FROM(0), FT_ACC_FROM(8), FT_ACC_FROM(16), FT_ACC_FROM(24)
#define FT_ACC_24 FT_ACC_16, FT_ACC_FROM(16)
#define FT_ACC_40 FT_ACC_32, FT_ACC_FROM(32)
#define FT_ACC_48 FT_ACC_40, FT_ACC_FROM(40)
#define FT_ACC_64 FT_ACC_40, FT_ACC_FROM(40), FT_ACC_FROM(48), FT_ACC_FROM(56)
#define FT_ACC_96 FT_ACC_64, FT_ACC_FROM(64), FT_ACC_FROM(72), FT_ACC_FROM(80), FT_ACC_FROM(88)
#define FT_ACC_128                                                                                \
  FT_ACC_64, FT_ACC_FROM(64), FT_ACC_FROM(72), FT_ACC_FROM(80), FT_ACC_FROM(88), FT_ACC_FROM(96), \
      FT_ACC_FROM(104), FT_ACC_FROM(112), FT_ACC_FROM(120)

// `size`: accumulators of a thread; the numbers of the operands behind them are given, for a
// string holds no sums.
#define FT_DEFINE_ROWS(T, type, columns, size, a_, b_, accumulate_)                              \
  template <>                                                                                    \
  __device__ __forceinline__ void multiply_rows<T>(float (&acc)[size], uint64_t a, uint64_t b,   \
                                                   int accumulate) {                             \
    asm volatile(                                                                                \
        "{\n"                                                                                    \
        ".reg .pred accumulate;\n"                                                               \
        "setp.ne.b32 accumulate, " accumulate_                                                   \
        ", 0;\n"                                                                                 \
        "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" FT_LIST_##size \
        "}, " a_ ", " b_                                                                         \
        ", accumulate, 1, 1, 0, 0;\n"                                                            \
        "}\n"                                                                                    \
        : FT_ACC_##size                                                                          \
        : "l"(a), "l"(b), "r"(accumulate));                                                      \
  }
#define FT_DEFINE_FROM_REGISTERS(name, transposed, T, type, columns, size, a_, b_)    \
  template <>                                                                         \
  __device__ __forceinline__ void name<T>(float (&acc)[size], const uint32_t (&a)[4], \
                                          uint64_t b) {                               \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type \
                 " {" FT_LIST_##size "}, {" a_ "}, " b_ ", 1, 1, 1, " transposed ";"  \
                 : FT_ACC_##size                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));               \
  }
#define FT_DEFINE_COLUMNS(...) FT_DEFINE_FROM_REGISTERS(multiply_columns, "1", __VA_ARGS__)
#define FT_DEFINE_STRIPS(...) FT_DEFINE_FROM_REGISTERS(multiply_strips, "0", __VA_ARGS__)
#define FT_DEFINE_PRODUCTS(T, type)                                        \
  FT_DEFINE_ROWS(T, type, "16", 8, "%8", "%9", "%10")                      \
  FT_DEFINE_ROWS(T, type, "32", 16, "%16", "%17", "%18")                   \
  FT_DEFINE_ROWS(T, type, "48", 24, "%24", "%25", "%26")                   \
  FT_DEFINE_ROWS(T, type, "64", 32, "%32", "%33", "%34")                   \
  FT_DEFINE_ROWS(T, type, "80", 40, "%40", "%41", "%42")                   \
  FT_DEFINE_ROWS(T, type, "128", 64, "%64", "%65", "%66")                  \
  FT_DEFINE_ROWS(T, type, "192", 96, "%96", "%97", "%98")                  \
  FT_DEFINE_COLUMNS(T, type, "64", 32, "%32, %33, %34, %35", "%36")        \
  FT_DEFINE_COLUMNS(T, type, "128", 64, "%64, %65, %66, %67", "%68")       \
  FT_DEFINE_COLUMNS(T, type, "256", 128, "%128, %129, %130, %131", "%132") \
  FT_DEFINE_STRIPS(T, type, "32", 16, "%16, %17, %18, %19", "%20")         \
  FT_DEFINE_STRIPS(T, type, "48", 24, "%24, %25, %26, %27", "%28")         \
  FT_DEFINE_STRIPS(T, type, "64", 32, "%32, %33, %34, %35", "%36")         \
  FT_DEFINE_STRIPS(T, type, "96", 48, "%48, %49, %50, %51", "%52")

FT_DEFINE_PRODUCTS(__nv_bfloat16, "bf16")
FT_DEFINE_PRODUCTS(__half, "f16")

#undef FT_DEFINE_PRODUCTS
#undef FT_DEFINE_STRIPS
#undef FT_DEFINE_COLUMNS
#undef FT_DEFINE_FROM_REGISTERS
#undef FT_DEFINE_ROWS
#undef FT_ACC_128
#undef FT_ACC_96
#undef FT_ACC_64
#undef FT_ACC_48
#undef FT_ACC_40
#undef FT_ACC_32
#undef FT_ACC_24
#undef FT_ACC_16
#undef FT_ACC_8
#undef FT_ACC_FROM
#undef FT_LIST_128
#undef FT_LIST_96
#undef FT_LIST_64
#undef FT_LIST_48
#undef FT_LIST_40
#undef FT_LIST_32
#undef FT_LIST_24
#undef FT_LIST_16
#undef FT_LIST_8

#endif  // FT_WGMMA

}  // namespace ft::device
