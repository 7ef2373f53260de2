// SPDX-License-Identifier: BSD-3-Clause
// Barriers in shared memory, which some threads arrive at and others wait for. (PTX ISA,
// "mbarrier"; sm_80 and later) Phases count from 0, and the parity of a phase names it.
#pragma once

#include <cstdint>

#include "device/mma.cuh"

namespace ft::device {

// A phase ends with the last of `arrivals`. Other threads see the barrier behind a barrier of the
// block.
__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Waits for the end of the phase of this parity; the phase before the first has ended.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, int parity) {
#if __CUDA_ARCH__ >= 900
#define FT_BARRIER_WAIT "try_wait"  // sleeps for a while
#else
#define FT_BARRIER_WAIT "test_wait"
#endif
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier." FT_BARRIER_WAIT
      ".parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
#undef FT_BARRIER_WAIT
}

}  // namespace ft::device
