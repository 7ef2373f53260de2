// SPDX-License-Identifier: BSD-3-Clause
// 64-bit integers combined over the lanes of a warp, all of which call; and who a thread is.
#pragma once

#include <cstdint>

namespace ft::device {

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp() { return threadIdx.x / 32; }

__device__ __forceinline__ uint64_t warp_max(uint64_t x) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) x = max(x, __shfl_xor_sync(0xffffffffu, x, width));
  return x;
}

__device__ __forceinline__ uint64_t warp_sum(uint64_t x) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) x += __shfl_xor_sync(0xffffffffu, x, width);
  return x;
}

// The sum over this lane and those below it.
__device__ __forceinline__ uint64_t warp_prefix(uint64_t x) {
#pragma unroll
  for (int width = 1; width < 32; width *= 2) {
    const uint64_t below = __shfl_up_sync(0xffffffffu, x, width);
    if (lane() >= width) x += below;
  }
  return x;
}

}  // namespace ft::device
