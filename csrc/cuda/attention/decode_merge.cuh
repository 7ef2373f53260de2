// SPDX-License-Identifier: BSD-3-Clause
// How states of attention with single queries become one, a head at a time and in a fixed order:
// those of a block's warps in shared memory, those of a sequence's chunks in the workspace.
#pragma once

#include "cuda/attention/decode_state.cuh"
#include "device/tensor_core.cuh"
#include "device/ticket.cuh"

namespace ft::cuda {

// A head of an item whose state the warps have left in shared memory.
template <int kHeadDim>
struct WarpParts {
  const DecodeStates<kHeadDim>& states;
  int head;

  __device__ float2 total(int warp) const { return states.total(warp, head); }
  __device__ float4 sum(int warp, int dim) const {
    return *reinterpret_cast<const float4*>(states.sum(warp, head) + dim);
  }
};

// A head of a sequence, of whose chunks from `first` on blocks have left states in the workspace.
template <typename T>
struct ChunkParts {
  const Attention<T>& a;
  int first, head;

  __device__ int64_t at(int chunk) const {
    return static_cast<int64_t>(first + chunk) * a.num_heads + head;
  }
  __device__ float2 total(int chunk) const { return __ldcg(&a.partial_totals[at(chunk)]); }
  __device__ float4 sum(int chunk, int dim) const {
    return __ldcg(reinterpret_cast<const float4*>(a.partial_sums + at(chunk) * a.head_dim + dim));
  }
};

// The state of one head in a warp: dims 4 lane .. 4 lane + 3, and those 128 behind.
template <int kHeadDim>
struct HeadState {
  static constexpr int kLaneDims = 128;
  static constexpr int kPacks = (kHeadDim + kLaneDims - 1) / kLaneDims;
  float best = -INFINITY, total = 0.0f;
  float4 sums[kPacks] = {};

  template <typename Parts>
  __device__ HeadState(const Parts& parts, int count, int head_dim, int lane) {
    for (int part = lane; part < count; part += 32) best = fmaxf(best, parts.total(part).x);
#pragma unroll
    for (int width = 1; width < 32; width *= 2) {
      best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, width));
    }
#pragma unroll 4
    for (int part = 0; part < count; ++part) {
      add(parts.total(part), head_dim, lane, [&](int dim) { return parts.sum(part, dim); });
    }
  }

  // None yet, of whose states `best` is to be the best.
  __device__ explicit HeadState(float best) : best(best) {}

  // A state: best score and total weight, and its sums by `sum`(dim).
  template <typename Sum>
  __device__ void add(float2 found, int head_dim, int lane, const Sum& sum_of) {
    const float weight = device::exp2_fast(found.x - best);
    total += weight * found.y;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int dim = lane * 4 + i * kLaneDims;
      if (dim >= head_dim) continue;
      const float4 sum = sum_of(dim);
      sums[i].x += weight * sum.x;
      sums[i].y += weight * sum.y;
      sums[i].z += weight * sum.z;
      sums[i].w += weight * sum.w;
    }
  }

  template <typename T>
  __device__ void write(T* to, int head_dim, int lane) const {
    const float scale = 1.0f / total;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int dim = lane * 4 + i * kLaneDims;
      if (dim >= head_dim) continue;
      const uint2 packed{device::pack<T>(sums[i].x * scale, sums[i].y * scale),
                         device::pack<T>(sums[i].z * scale, sums[i].w * scale)};
      *reinterpret_cast<uint2*>(to + dim) = packed;
    }
  }

  template <typename T>
  __device__ void leave(const Attention<T>& a, int chunk, int head, int lane) const {
    if (chunk >= a.num_partials) __trap();  // the workspace is too small
    const int64_t at = static_cast<int64_t>(chunk) * a.num_heads + head;
    if (lane == 0) a.partial_totals[at] = {best, total};
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int dim = lane * 4 + i * kLaneDims;
      if (dim < a.head_dim) {
        *reinterpret_cast<float4*>(a.partial_sums + at * a.head_dim + dim) = sums[i];
      }
    }
  }
};

// The heads whose last chunk this warp has left, of first, first + step, ... A function of its own:
// code takes time to arrive, too, and short sequences do without this.
template <typename T, int kHeadDim>
__device__ __noinline__ void merge_chunks(const Attention<T>& a, const DecodeItem& item, int first,
                                          int step, int lane) {
  __syncwarp();  // all lanes have left their part
  // One lane counts for each head, so that they wait together.
  const int own = first + lane * step;
  const bool is_last =
      own < item.num_heads &&
      device::is_last_of(item.num_chunks,
                         &a.counters[item.sequence_chunk * a.num_heads + item.head + own]);
  const unsigned last = __ballot_sync(0xffffffffu, is_last);
  __syncwarp();  // what one lane may read now, all may
  for (int head = first, i = 0; head < item.num_heads; head += step, ++i) {
    if ((last >> i & 1) == 0) continue;
    const ChunkParts<T> parts{a, item.first_chunk, item.head + head};
    const HeadState<kHeadDim> state(parts, item.num_chunks, a.head_dim, lane);
    state.write(a.result(item.token, item.head + head), a.head_dim, lane);
  }
}

// Heads first, first + step, ... of the item, from the states of so many warps: into the result,
// or into the workspace, whose states the warp merges that is the last to leave one.
template <typename T, int kHeadDim>
__device__ void merge_heads(const Attention<T>& a, const DecodeItem& item,
                            const DecodeStates<kHeadDim>& states, int num_states, int first,
                            int step, int lane) {
  const bool is_partial = item.num_chunks > 1;
  for (int head = first; head < item.num_heads; head += step) {
    const HeadState<kHeadDim> state(WarpParts<kHeadDim>{states, head}, num_states, a.head_dim,
                                    lane);
    if (is_partial) {
      state.leave(a, item.chunk, item.head + head, lane);
    } else {
      state.write(a.result(item.token, item.head + head), a.head_dim, lane);
    }
  }
  if (is_partial) merge_chunks<T, kHeadDim>(a, item, first, step, lane);
}

}  // namespace ft::cuda
