// SPDX-License-Identifier: BSD-3-Clause
// Where a thread is in a ring of stages in shared memory.
#pragma once

namespace ft::device {

// A stage of the ring and the phase of its barriers.
struct RingPosition {
  int stage = 0, phase = 0;

  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) stage = 0, phase ^= 1;
  }
};

}  // namespace ft::device
