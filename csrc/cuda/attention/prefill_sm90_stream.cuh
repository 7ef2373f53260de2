// SPDX-License-Identifier: BSD-3-Clause
// What a block of prefill_sm90.cuh keeps in shared memory, and the warp that fills it.
#pragma once

#include "cuda/attention/attention.cuh"
#include "cuda/attention/prefill_item.cuh"
#include "cuda/tensor_map.h"
#include "device/wgmma.cuh"

namespace ft::cuda::prefill_sm90 {

constexpr int kGroupThreads = 128;
constexpr int kConsumerGroups = 2;  // each has 64 rows of queries
constexpr int kConsumerWarps = kConsumerGroups * kGroupThreads / 32;
constexpr int kThreads = kGroupThreads * (1 + kConsumerGroups);
constexpr int kGroupRows = kTileQueries / kConsumerGroups;
constexpr int kRowBytes = 2 * kStripColumns;  // of a strip
constexpr int kStages = 2;
constexpr int kAlignment = 1024;  // of a swizzled strip

// Tiles lie in strips of 64 dims. 80 keys of 256 dims are the most that fit; a product of fewer
// than 80 columns would wait for shared memory.
template <int kHeadDim>
struct Shape {
  static constexpr int kTileKeys = kHeadDim <= 128 ? 128 : 80;
  static constexpr int kStrips = kHeadDim / kStripColumns;
  static constexpr int kQueryStripBytes = kTileQueries * kRowBytes;
  static constexpr int kTileStripBytes = kTileKeys * kRowBytes;
  static constexpr int kQueryBytes = kStrips * kQueryStripBytes;
  static constexpr int kTileBytes = kStrips * kTileStripBytes;
  static constexpr int kSharedBytes = kAlignment + kQueryBytes + 2 * kStages * kTileBytes;
};

// What copies count in, and consumers behind their last use.
template <int kCount>
struct Barriers {
  uint64_t full[kCount], empty[kCount];
};

struct Control {
  Barriers<kStages> keys, values;
  Barriers<1> queries;
  PrefillItem item;  // that of the queries; one without rows is the end
};

struct Maps {
  CUtensorMap queries;  // [T, N, D], boxes of a tile's queries
  CUtensorMap keys, values;
  int box_keys;  // of one box; divides the block and the tile
};

#ifdef FT_WGMMA

// A stage and the phase of its barriers.
struct Position {
  int stage = 0, phase = 0;

  __device__ void advance() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

template <int kCount>
__device__ void init(Barriers<kCount>& barriers) {
  for (int i = 0; i < kCount; ++i) {
    device::barrier_init(&barriers.full[i], 1);
    device::barrier_init(&barriers.empty[i], kConsumerWarps);
  }
}

template <int kHeadDim>
struct Tiles {
  char* queries;

  __device__ explicit Tiles(char* shared)
      : queries(shared + (kAlignment - device::shared_address(shared) % kAlignment) % kAlignment) {}
  __device__ char* keys(int stage) const {
    return queries + Shape<kHeadDim>::kQueryBytes + stage * Shape<kHeadDim>::kTileBytes;
  }
  __device__ char* values(int stage) const { return keys(kStages + stage); }
};

// The items of a block: those of all blocks go back and forth over the list, which begins with
// those that take longest.
__device__ inline int item_index(int round) {
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  return round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
}

template <typename T>
__device__ int num_items(const Attention<T>& a) {
  return a.work[2 * a.num_sequences + 1] * a.num_heads;
}

// By a whole warp.
template <typename T>
__device__ PrefillItem find_item(const Attention<T>& a, int index) {
  const int* cumulative = a.work + a.num_sequences + 1;
  const int tile = cumulative[a.num_sequences] - 1 - index / a.num_heads;
  const int lane = threadIdx.x % 32;
  unsigned found = 0;
  int first = -32;
  while (found == 0) {
    first += 32;
    const int i = first + lane;
    found = __ballot_sync(0xffffffffu, i < a.num_sequences && tile < cumulative[i + 1]);
  }
  const int sequence = first + __ffs(static_cast<int>(found)) - 1;
  return make_item(a, sequence, index % a.num_heads, (tile - cumulative[sequence]) * kTileQueries,
                   kTileQueries);
}

// One warp that copies the queries of an item, then its keys and values, in the order in which they
// are used: the keys of a tile come before the values of the tile before.
template <typename T, int kHeadDim>
class Stream {
  using S = Shape<kHeadDim>;

 public:
  __device__ Stream(const Attention<T>& a, const Maps& maps, char* shared, Control& control)
      : a_(a), maps_(maps), tiles_(shared), control_(control), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    const int count = num_items(a_);
    int phase = 1;
    for (int round = 0; item_index(round) < count; ++round, phase ^= 1) {
      const PrefillItem item = find_item(a_, item_index(round));
      device::barrier_wait(control_.queries.empty, phase);
      copy_queries(item);
      const int first = item.oldest / S::kTileKeys, last = item.newest / S::kTileKeys;
      copy_tile(item, first, maps_.keys, control_.keys, keys_at_, tiles_.keys(0));
      for (int tile = first; tile <= last; ++tile) {
        if (tile < last) {
          copy_tile(item, tile + 1, maps_.keys, control_.keys, keys_at_, tiles_.keys(0));
        }
        copy_tile(item, tile, maps_.values, control_.values, values_at_, tiles_.values(0));
      }
    }
    device::barrier_wait(control_.queries.empty, phase);
    if (lane_ != 0) return;
    control_.item.num_rows = 0;
    device::barrier_arrive(control_.queries.full);
  }

 private:
  // Rows behind the item's last are those of others, or zero.
  __device__ void copy_queries(const PrefillItem& item) {
    if (lane_ == 0) {
      control_.item = item;
      device::barrier_expect(control_.queries.full, S::kQueryBytes);
    }
    __syncwarp();
    if (lane_ < S::kStrips) {
      device::copy_box(tiles_.queries + lane_ * S::kQueryStripBytes, maps_.queries,
                       lane_ * kStripColumns, item.head, item.token, control_.queries.full,
                       device::kEvictFirst);
    }
  }

  // Every lane copies boxes of its own.
  __device__ void copy_tile(const PrefillItem& item, int tile, const CUtensorMap& map,
                            Barriers<kStages>& barriers, Position& at, char* stages) {
    uint64_t* const full = &barriers.full[at.stage];
    char* const to = stages + at.stage * S::kTileBytes;
    Place place = find(item, tile, lane_);  // while the stage is in use
    device::barrier_wait(&barriers.empty[at.stage], at.phase ^ 1);
    if (lane_ == 0) device::barrier_expect(full, S::kTileBytes);
    __syncwarp();
    const int count = S::kTileKeys / maps_.box_keys * S::kStrips;
    for (int i = lane_; i < count; i += 32) {
      const int box = i / S::kStrips, strip = i % S::kStrips;
      if (i != lane_) place = find(item, tile, i);
      device::copy_box(to + strip * S::kTileStripBytes + box * maps_.box_keys * kRowBytes, map,
                       strip * kStripColumns, place.slot, item.kv_head, place.page, full,
                       device::kEvictLast);
    }
    at.advance();
  }

  struct Place {
    int page, slot;
  };

  // Of a box of the tile. Keys that nobody sees may have no page, and are copied from behind the
  // last page, where all is zero.
  __device__ Place find(const PrefillItem& item, int tile, int index) const {
    const int key = tile * S::kTileKeys + index / S::kStrips * maps_.box_keys;
    if (key > item.newest || key + maps_.box_keys <= item.oldest) return {a_.num_pages, 0};
    const int page = key / a_.block_size;
    return {a_.block_tables[item.sequence * a_.table_stride + page], key - page * a_.block_size};
  }

  const Attention<T>& a_;
  const Maps& maps_;
  const Tiles<kHeadDim> tiles_;
  Control& control_;
  const int lane_;
  Position keys_at_, values_at_;
};

#endif  // FT_WGMMA

}  // namespace ft::cuda::prefill_sm90
