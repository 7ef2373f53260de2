// SPDX-License-Identifier: BSD-3-Clause
// The instructions of Hopper that have no C++ name: bulk tensor copies and what they count in. (PTX
// ISA 8.x, sections "mbarrier", "cp.async.bulk.tensor".) From sm_90 on.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "device/barrier.cuh"
#include "device/mma.cuh"

#if __CUDA_ARCH__ >= 900
#define FT_HOPPER 1
#endif

namespace ft::device {

#ifdef FT_HOPPER

// How the second cache treats what a copy brings in.
constexpr uint64_t kEvictFirst = 0x12F0000000000000ull;
constexpr uint64_t kEvictLast = 0x14F0000000000000ull;
constexpr uint64_t kEvictNormal = 0x1000000000000000ull;

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;");
}

__device__ __forceinline__ void barrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

// The box of a tensor that starts at these coordinates, those of the innermost dimension first.
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap& map, int x0, int x1, int x2,
                                         uint64_t* barrier, uint64_t cache_hint) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
      "l"(&map), "r"(x0), "r"(x1), "r"(x2), "r"(shared_address(barrier)), "l"(cache_hint)
      : "memory");
}

// Boxes of a matrix, side by side from box `box` on, their first row is `row`. (cuda/tensor_map.h)
__device__ __forceinline__ void copy_boxes(void* to, const CUtensorMap& map, int row, int box,
                                           uint64_t* barrier, uint64_t cache_hint) {
  copy_box(to, map, 0, row, box, barrier, cache_hint);
}

// The same into the shared memory of both blocks of a cluster of two, at the same place; each
// counts it in its own barrier.
__device__ __forceinline__ void copy_boxes_to_both(void* to, const CUtensorMap& map, int row,
                                                   int box, uint64_t* barrier,
                                                   uint64_t cache_hint) {
  constexpr uint16_t kBoth = 3;
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6, %7;" ::"r"(
          shared_address(to)),
      "l"(&map), "r"(0), "r"(row), "r"(box), "r"(shared_address(barrier)), "h"(kBoth),
      "l"(cache_hint)
      : "memory");
}

// Writes a box of a matrix, as result_map() of cuda/tensor_map.h describes it; what lies outside is
// left out. `from` may be written again behind stores_wait_read() of the same thread.
__device__ __forceinline__ void store_box(const CUtensorMap& map, int column, int row,
                                          const void* from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(column), "r"(row), "r"(shared_address(from))
      : "memory");
}
__device__ __forceinline__ void stores_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Arrives at the barrier that `block` of the cluster has where `barrier` is here: only that the
// caller has read what the barrier guards, not that others see what it wrote.
__device__ __forceinline__ void barrier_arrive_at(uint64_t* barrier, int block) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(block)
      : "memory");
}

// The same of a matrix of several parts: `row` is that of every part.
__device__ __forceinline__ void copy_part_boxes(void* to, const CUtensorMap& map, int row, int box,
                                                uint64_t* barrier, uint64_t cache_hint) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(to)),
      "l"(&map), "r"(0), "r"(row), "r"(0), "r"(box), "r"(shared_address(barrier)), "l"(cache_hint)
      : "memory");
}

// A cache's block of keys: groups of eight from group `group` of the page on.
__device__ __forceinline__ void copy_keys(void* to, const CUtensorMap& map, int group, int page,
                                          uint64_t* barrier, uint64_t cache_hint) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %2, %2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
      "l"(&map), "r"(0), "r"(group), "r"(page), "r"(shared_address(barrier)), "l"(cache_hint)
      : "memory");
}

// Has the copy engine read a map ahead.
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Makes a thread's writes to shared memory visible to copies and products behind a barrier.
__device__ __forceinline__ void async_proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif  // FT_HOPPER

}  // namespace ft::device
