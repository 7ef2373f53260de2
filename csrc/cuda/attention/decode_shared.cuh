// SPDX-License-Identifier: BSD-3-Clause
// The shared memory of a block of attention with single queries: rings, states, plan.
#pragma once

#include "cuda/attention/decode_state.cuh"

namespace ft::cuda {

// The shared memory of a block.
template <int kHeadDim>
struct DecodeShared {
  using Shape = DecodeShape<kHeadDim>;
  static constexpr size_t kPlanBytes =
      2 * Shape::kBuffers * sizeof(uint64_t) + kPlannedItems * sizeof(DecodeItem);

  char* rings;
  float* first_states;
  uint64_t *left, *merged;  // [buffer]: all warps have left their states, need them no more
  DecodeItem* items;        // kPlannedItems
  int* cumulative;          // chunks up to each sequence
  int num_warps, num_heads;

  __device__ DecodeShared(char* shared, int warps, int heads)
      : rings(shared), num_warps(warps), num_heads(heads) {
    first_states = reinterpret_cast<float*>(shared + num_warps * Shape::kRingBytes);
    left = reinterpret_cast<uint64_t*>(states(Shape::kBuffers).sums);
    merged = left + Shape::kBuffers;
    items = reinterpret_cast<DecodeItem*>(merged + Shape::kBuffers);
    cumulative = reinterpret_cast<int*>(items + kPlannedItems);
  }
  __device__ DecodeStates<kHeadDim> states(int buffer) const {
    const int count = num_warps * num_heads;
    float* sums = first_states + buffer * count * (Shape::kSumStride + 2);
    return {sums, reinterpret_cast<float2*>(sums + count * Shape::kSumStride), num_heads};
  }
};

// Counts the items of a block, and names the buffer of their states and its barriers' phase.
template <int kHeadDim>
struct BufferPosition {
  int buffer = 0, parity = 0;

  __device__ void advance() {
    if (++buffer == DecodeShape<kHeadDim>::kBuffers) buffer = 0, parity ^= 1;
  }
};

}  // namespace ft::cuda
