// SPDX-License-Identifier: BSD-3-Clause
// How the kernels for several queries share packed sequences out. How many tiles a sequence has is
// known on the device alone: a step's plan is its cu_seqlens.
#pragma once

#include "cuda/attention/packed.cuh"
#include "cuda/attention/plain.cuh"
#include "cuda/attention/prefill.cuh"

namespace ft::cuda {

// Tiles of one sequence each: `tile` counts those before it in the sequence.
struct SequenceTile {
  int sequence, tile;
};

// Tile `index` of all sequences, each cut into tiles of `size` queries; the sequence is -1 behind
// the last tile. Called by the whole block.
__device__ inline SequenceTile find_tile(const int32_t* cu_seqlens, int num_sequences, int size,
                                         int index) {
  __shared__ int warp_tiles[kPrefillWarps];
  __shared__ SequenceTile found;
  const auto tiles_of = [&](int sequence) {
    return (cu_seqlens[sequence + 1] - cu_seqlens[sequence] + size - 1) / size;
  };
  const int share = (num_sequences + kPrefillThreads - 1) / kPrefillThreads;
  const int first = static_cast<int>(threadIdx.x) * share, end = min(first + share, num_sequences);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int own = 0;
  for (int i = first; i < end; ++i) own += tiles_of(i);
  int sum = own;  // of the warp's threads up to this one
#pragma unroll
  for (int width = 1; width < 32; width *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, sum, width);
    if (lane >= width) sum += before;
  }
  if (lane == 31) warp_tiles[warp] = sum;
  if (threadIdx.x == 0) found = {-1, 0};
  __syncthreads();
  int left = index - (sum - own);
  for (int i = 0; i < warp; ++i) left -= warp_tiles[i];
  if (left >= 0 && left < own) {
    int sequence = first;
    while (left >= tiles_of(sequence)) left -= tiles_of(sequence++);
    found = {sequence, left};
  }
  __syncthreads();
  return found;
}

// Every sequence may leave one tile unfilled.
template <typename T, typename Shape>
__host__ __device__ int num_items(const PackedAttention<T>& a, Shape) {
  return (a.num_tokens / Shape::kQueries + a.num_sequences) * a.num_heads;
}

template <typename T, typename Shape>
__device__ PrefillItem find_item(const PackedAttention<T>& a, Shape, int index) {
  const auto place =
      find_tile(a.cu_seqlens_q, a.num_sequences, Shape::kQueries, index / a.num_heads);
  if (place.sequence < 0) return {};
  return make_item(a, place.sequence, index % a.num_heads, place.tile * Shape::kQueries,
                   Shape::kQueries);
}

template <typename T, typename Shape>
unsigned num_blocks(const PackedAttention<T>& a, Shape shape) {
  return static_cast<unsigned>(num_items(a, shape));
}

// By the average sequence: wide tiles of short ones would stay empty.
template <typename T>
int64_t num_full_tiles(const PackedAttention<T>& a) {
  return static_cast<int64_t>(a.num_sequences) * (a.num_tokens / a.num_sequences / kTileQueries);
}

}  // namespace ft::cuda
