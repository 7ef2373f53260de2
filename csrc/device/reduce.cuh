// SPDX-License-Identifier: BSD-3-Clause
// Sums over warps and blocks, in an order that depends on the block size alone.
#pragma once

namespace ft::device {

inline constexpr int kMaxWarps = 32;  // of a block

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) x += __shfl_xor_sync(0xffffffffu, x, width);
  return x;
}

// The sum over all threads of the block, for each of them. kThreads is a multiple of 32, at most
// 1024.
template <int kThreads>
__device__ __forceinline__ float block_sum(float x) {
  constexpr int kWarps = kThreads / 32;
  __shared__ float partial[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = warp_sum(x);
  __syncthreads();  // a block may sum twice: the first result must have been read
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_sum(lane < kWarps ? partial[lane] : 0.0f);
}

// The same for a block of any number of whole warps, with one barrier. `partial`: kMaxWarps floats of
// shared memory that the block uses for this sum alone.
__device__ __forceinline__ float block_sum(float x, float* partial) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = warp_sum(x);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_sum(lane < blockDim.x / 32 ? partial[lane] : 0.0f);
}

}  // namespace ft::device
