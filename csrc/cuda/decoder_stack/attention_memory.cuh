// SPDX-License-Identifier: BSD-3-Clause
// What attention in decoder_stack keeps in the shared memory of a block.
#pragma once

#include "cuda/attention/decode_state.cuh"
#include "cuda/decoder_stack/steps.h"

namespace ft::cuda::stack {

// Of the rings of attention: where heads are wide the ring of weights has more use for the memory,
// as long as sequences have few keys.
template <int kHeadDim>
constexpr int kRingStages = kHeadDim <= 64 ? 2 : 1;

// The attentions of one kind, without what is of a step.
template <typename T>
struct Call {
  Attention<T> attention;
  T* buffers;            // of this launch
  T *k_cache, *v_cache;  // of the first layer
  int64_t layer_stride;
  int angles;  // offset in shared memory, [token, D]; or kUnturned

  static constexpr int kUnturned = -1;
};

// The items of a block, as many as are planned at a time; the chunks up to each sequence follow.
struct Items {
  static constexpr int kPlanned = 8;
  static constexpr int kFirstGroups = 16;  // of an item: those that fill the rings

  static constexpr int kPack = 8;  // elements

  int count;  // of the block, in all
  alignas(16) DecodeItem planned[kPlanned];
  unsigned offsets[kPlanned][kFirstGroups];  // of groups of keys in a layer's cache, in packs

  __device__ int* cumulative() { return reinterpret_cast<int*>(this + 1); }
  __device__ const int* cumulative() const { return reinterpret_cast<const int*>(this + 1); }
  static int bytes(int tokens) {
    return static_cast<int>(sizeof(Items) + (tokens + 1) * sizeof(int));
  }
};

// The rings of the warps: keys with what their scores get from a table, and values. Behind them are
// the states of two items.
template <int kHeadDim>
struct Rings {
  using Shape = DecodeShape<kHeadDim>;
  static constexpr int kStages = kRingStages<kHeadDim>;
  static constexpr int kBiasBytes = 32 * sizeof(float4);
  static constexpr int kStageBytes = 2 * Shape::kTileBytes + kBiasBytes;
  static constexpr int kBuffers = 2;
  static_assert(Shape::kMaxWarps * kStages <= Items::kFirstGroups);

  char* const first;
  const int num_warps, num_heads;

  __device__ char* keys(int warp, int stage) const {
    return first + (warp * kStages + stage) * kStageBytes;
  }
  __device__ char* values(int warp, int stage) const {
    return keys(warp, stage) + Shape::kTileBytes;
  }
  __device__ float4& bias(int warp, int stage, int lane) const {
    return reinterpret_cast<float4*>(values(warp, stage) + Shape::kTileBytes)[lane];
  }
  __device__ DecodeStates<kHeadDim> states(int buffer) const {
    const int count = num_warps * num_heads;
    float* const sums = reinterpret_cast<float*>(first + num_warps * kStages * kStageBytes) +
                        buffer * count * kStateFloats;
    return {sums, reinterpret_cast<float2*>(sums + count * Shape::kSumStride), num_heads};
  }
  static constexpr int bytes(int warps, int heads) {
    return warps * (kStages * kStageBytes + kBuffers * heads * kStateFloats * int{sizeof(float)});
  }

 private:
  static constexpr int kStateFloats = Shape::kSumStride + 2;
};

// A pointer would not tell the compiler whose memory it is.
__device__ __forceinline__ char* shared_memory(int offset) {
  extern __shared__ char memory[];
  return memory + offset;
}

// Offsets of an attention's call, step, rings and items.
struct Where {
  int call, step, rings, items;
};

}  // namespace ft::cuda::stack
