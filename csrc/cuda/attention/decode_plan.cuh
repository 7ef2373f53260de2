// SPDX-License-Identifier: BSD-3-Clause
// The pieces of work of attention with single queries, and the sizes of the kernel.
#pragma once

#include "cuda/attention/attention.cuh"

namespace ft::cuda {

constexpr int kItemHeads = 8;      // query heads of an item, at most: the columns of a product
constexpr int kGroupKeys = 16;     // keys that a warp takes at a time: the rows of a product
constexpr int kPlannedItems = 32;  // of a block, at a time

struct DecodeItem {
  int sequence, length, token;
  int chunk;                     // in the plan
  int first_chunk, num_chunks;   // those of the sequence that have visible keys
  int sequence_chunk;            // the first one of the sequence
  int begin, end;                // the chunk's visible keys
  int kv_head, head, num_heads;  // query heads [head, head + num_heads)

  // The first group of keys.
  __device__ int first_key() const { return begin / kGroupKeys * kGroupKeys; }
  // Without any, the window begins behind this chunk.
  __device__ int num_groups() const {
    return begin < end ? (end - first_key() + kGroupKeys - 1) / kGroupKeys : 0;
  }
};

template <typename T>
struct DecodePlan {
  const Attention<T>& attention;
  const int* cumulative;  // chunks up to each sequence, in shared memory
  int group, tiles_per_kv_head, num_tiles, num_items;

  __device__ DecodePlan(const Attention<T>& a, const int* chunks)
      : attention(a), cumulative(chunks) {
    group = a.num_heads / a.num_kv_heads;
    tiles_per_kv_head = (group + kItemHeads - 1) / kItemHeads;
    num_tiles = a.num_kv_heads * tiles_per_kv_head;
    num_items = cumulative[a.num_sequences] * num_tiles;
  }

  // Of a sequence with so many planned: about the same for all, and whole groups. The last ones of
  // very many may be empty.
  __device__ static int keys_of_chunks(int length, int count) {
    return (length + count * kGroupKeys - 1) / (count * kGroupKeys) * kGroupKeys;
  }

  __device__ DecodeItem operator[](int index) const {
    DecodeItem item;
    item.chunk = index / num_tiles;
    const int tile = index % num_tiles, part = tile % tiles_per_kv_head;
    item.kv_head = tile / tiles_per_kv_head;
    item.head = item.kv_head * group + part * kItemHeads;
    item.num_heads = min(kItemHeads, group - part * kItemHeads);
    int low = 0, high = attention.num_sequences - 1;
    while (low < high) {  // to the last sequence that starts at or before the chunk
      const int middle = (low + high + 1) / 2;
      if (cumulative[middle] <= item.chunk) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    item.sequence = low;
    item.length = attention.seq_lens[low];
    item.token = attention.cu_seqlens_q[low];
    item.sequence_chunk = cumulative[low];
    const int chunk_keys = keys_of_chunks(item.length, cumulative[low + 1] - cumulative[low]);
    const int oldest = attention.oldest_visible(item.length - 1);
    const int start = (item.chunk - cumulative[low]) * chunk_keys;
    item.begin = max(start, oldest);
    item.end = min(start + chunk_keys, item.length);
    item.first_chunk = cumulative[low] + oldest / chunk_keys;
    item.num_chunks = (item.length + chunk_keys - 1) / chunk_keys - oldest / chunk_keys;
    return item;
  }
};

template <int kHeadDim>
struct DecodeShape {
  // Enough that the rings of a multiprocessor hold what its share of the bandwidth brings in 1 us.
  static constexpr int kStages = 2;
  static constexpr int kBlocks = kHeadDim <= 128 ? 2 : 1;  // of a multiprocessor
  static constexpr int kMaxWarps = kHeadDim <= 80 ? 8 : 6;
  static constexpr int kRowBytes = kHeadDim * 2 + 16;  // odd in units of 16: no bank conflicts
  static constexpr int kTileBytes = kGroupKeys * kRowBytes;
  static constexpr int kRingBytes = 2 * kStages * kTileBytes;  // of a warp, keys and values
  static constexpr int kSumStride = kHeadDim + 4;
  static constexpr int kBuffers = 2;  // of the states of an item

  // Of one warp: its rings and its states.
  static constexpr size_t warp_bytes(int num_heads) {
    return kRingBytes + kBuffers * num_heads * (kSumStride + 2) * sizeof(float);
  }
};

}  // namespace ft::cuda
