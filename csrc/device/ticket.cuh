// SPDX-License-Identifier: BSD-3-Clause
// How the last of several blocks learns that it is the last.
#pragma once

namespace ft::device {

// Counts this block in; true for the last of `count`, and the counter is zero again then. What the
// blocks counted before wrote is visible to the calling thread then, and behind a barrier to its
// block; their writes must lie before a barrier of theirs.
__device__ __forceinline__ bool is_last_of(unsigned count, unsigned* counter) {
  unsigned ticket;
  asm volatile("atom.acq_rel.gpu.inc.u32 %0, [%1], %2;"
               : "=r"(ticket)
               : "l"(counter), "r"(count - 1)
               : "memory");
  return ticket == count - 1;
}

}  // namespace ft::device
