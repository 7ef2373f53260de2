// SPDX-License-Identifier: BSD-3-Clause
// The shared memory of a block of decoder_stack.
#pragma once

#include "cuda/decoder_stack/arguments.h"
#include "cuda/decoder_stack/attention_memory.cuh"
#include "device/barrier.cuh"
#include "device/hopper.cuh"
#include "device/ring.cuh"

namespace ft::cuda::stack {

// What consumers keep from step to step: registers that live through an attention would lie in
// memory, of which the first cache holds little beside the ring.
struct Progress {
  device::RingPosition at[kWarps];  // of the weights
  int turn, tokens_to_clear;
};

// Partial sums of the norm, in turns: a warp may still read one when the others write the next.
using Partials = float[2][kMaxRowWarps];

template <typename T, int kHeadDim>
struct Shared {
  char *const memory, *const base;
  const Layout& layout;

  __device__ Shared(char* memory, const Layout& layout)
      : memory(memory),
        base(memory + (sm90::kAlignment - device::shared_address(memory) % sm90::kAlignment) %
                          sm90::kAlignment),
        layout(layout) {}

  __device__ char* stage(int index) const { return base + index * kStageBytes; }
  // Of a product: what is normed lies beside the rings of the attention that follows, whose keys
  // are already on their way.
  __device__ T* x(const Step& step, int token) const {
    return step.norm_weight != nullptr
               ? reinterpret_cast<T*>(base + layout.normed) + token * layout.normed_stride
               : reinterpret_cast<T*>(base + layout.scratch) + token * layout.x_stride;
  }
  __device__ char* rings() const { return base + layout.scratch; }
  __device__ T* residual() const { return reinterpret_cast<T*>(base + layout.residual); }
  __device__ float* sums(int turn, int tokens) const {
    return reinterpret_cast<float*>(base + layout.sums) +
           turn * kSlices * tokens * layout.sum_stride;
  }
  __device__ Partials& partials() const {
    return *reinterpret_cast<Partials*>(base + layout.partials);
  }
  __device__ Progress& progress() const {
    return *reinterpret_cast<Progress*>(base + layout.progress);
  }
  __device__ float* angles() const { return reinterpret_cast<float*>(base + layout.angles); }
  __device__ Step& header(int step) const {
    return reinterpret_cast<Step*>(base + layout.headers)[step % kHeaders];
  }
  __device__ uint64_t* full(int stage) const {
    return reinterpret_cast<uint64_t*>(base + layout.barriers) + stage;
  }
  __device__ uint64_t* empty(int stage) const { return full(kMaxStages + stage); }
  __device__ Call<T>& call(bool is_cross) const {
    return reinterpret_cast<Call<T>*>(base + layout.calls)[is_cross];
  }
  __device__ char* items(bool is_cross) const {
    return base + (is_cross ? layout.cross_items : layout.self_items);
  }
  // Of what lies in here, from the start of the shared memory.
  __device__ int offset_of(const void* what) const {
    return static_cast<int>(static_cast<const char*>(what) - memory);
  }

#ifdef FT_HOPPER
  // By one thread, before a barrier of the block.
  __device__ __forceinline__ void init(const Arguments<T>& a) const {
    for (int stage = 0; stage < layout.stages; ++stage) {
      device::barrier_init(full(stage), 1);
      device::barrier_init(empty(stage), kWarps);
    }
    device::barrier_init_fence();
  }
#endif
};

}  // namespace ft::cuda::stack
