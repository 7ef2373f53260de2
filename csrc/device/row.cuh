// SPDX-License-Identifier: BSD-3-Clause
// One row of floats, dealt out to the warps of a cluster: contiguous segments, ascending with block
// and warp.
#pragma once

#include "device/cluster.cuh"

namespace ft::device {

struct Segment {
  const float* row;
  int begin, end;
};

// The segment of the caller's warp; it may be empty.
template <int kBlocks, int kThreads>
__device__ __forceinline__ Segment segment_of(const float* row, int size) {
  constexpr int kLanes = kBlocks * kThreads;
  const int length = (size + kLanes - 1) / kLanes * 32;
  const int warp = Cluster<kBlocks>::rank() * (kThreads / 32) + static_cast<int>(threadIdx.x / 32);
  const int begin = min(warp * length, size);
  return {row, begin, min(begin + length, size)};
}

// Calls visit(index, value) for the lane's elements in ascending order. All lanes make equally many
// calls: behind the end of the segment the value is -inf.
template <typename Visit>
__device__ __forceinline__ void for_each(const Segment& segment, Visit visit) {
  constexpr int kUnroll = 8;  // loads in flight
  for (int first = segment.begin; first < segment.end; first += 32 * kUnroll) {
    float values[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int index = first + 32 * i + static_cast<int>(threadIdx.x % 32);
      values[i] = index < segment.end ? segment.row[index] : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      visit(first + 32 * i + static_cast<int>(threadIdx.x % 32), values[i]);
    }
  }
}

}  // namespace ft::device
