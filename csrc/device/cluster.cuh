// SPDX-License-Identifier: BSD-3-Clause
// The blocks of a cluster, which reach each other's shared memory (sm_90); with kBlocks = 1 a lone
// block, on any device. All functions are called by all threads, and nothing is synchronised by
// less.
#pragma once

#include <cooperative_groups.h>

namespace ft::device {

template <int kBlocks>
struct Cluster {
  // Of the caller's block, in [0, kBlocks).
  static __device__ __forceinline__ int rank() { return kBlocks == 1 ? 0 : blockIdx.x % kBlocks; }

  // Between arrive() and wait() all blocks have started: before that none may be reached.
  static __device__ __forceinline__ void arrive() {
#if __CUDA_ARCH__ >= 900
    if constexpr (kBlocks > 1) cooperative_groups::this_cluster().barrier_arrive();
#endif
  }
  static __device__ __forceinline__ void wait() {
#if __CUDA_ARCH__ >= 900
    if constexpr (kBlocks > 1) cooperative_groups::this_cluster().barrier_wait();
#endif
  }

  static __device__ __forceinline__ void sync() {
#if __CUDA_ARCH__ >= 900
    if constexpr (kBlocks > 1) {
      cooperative_groups::this_cluster().sync();
      return;
    }
#endif
    __syncthreads();
  }

  // Where `block` keeps what is at `shared` here.
  template <typename T>
  static __device__ __forceinline__ T* at(T* shared, int block) {
#if __CUDA_ARCH__ >= 900
    if constexpr (kBlocks > 1)
      return cooperative_groups::this_cluster().map_shared_rank(shared, block);
#endif
    return shared;
  }
};

}  // namespace ft::device
