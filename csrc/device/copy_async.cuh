// SPDX-License-Identifier: BSD-3-Clause
// Copies from global to shared memory that run beside the threads. (PTX ISA, "cp.async"; sm_80 and
// later) A thread sees what it copied itself behind wait_for_copies(), others behind a barrier too.
#pragma once

#include <cstdint>

namespace ft::device {

// 16 bytes, both sides aligned to 16; zeros where `valid` is false, and `from` is not read then.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(valid ? 16 : 0)
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

// 4 bytes, both sides aligned to 4.
__device__ __forceinline__ void copy_word_async(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}

}  // namespace ft::device
