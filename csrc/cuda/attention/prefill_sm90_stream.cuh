// SPDX-License-Identifier: BSD-3-Clause
// What a block of prefill_sm90.cuh keeps in shared memory, and the warps that fill it.
#pragma once

#include "cuda/attention/attention.cuh"
#include "cuda/attention/prefill_item.cuh"
#include "cuda/tensor_map.h"
#include "device/pdl.cuh"
#include "device/ring.cuh"
#include "device/wgmma.cuh"

namespace ft::cuda::prefill_sm90 {

constexpr int kWarpgroupThreads = 128;
constexpr int kWarpgroupRows = 64;            // of queries
constexpr int kRowBytes = 2 * kStripColumns;  // of a strip
constexpr int kGroupBytes = kCacheGroupKeys * kRowBytes;
constexpr int kAlignment = 1024;  // of a swizzled strip
constexpr int kPackedRows = 32;  // of a box: a short sequence shall not read much of its neighbours
constexpr int kItems = 4;        // that a block knows at once, those of two stages and two before

// A block's warpgroups have the rows of an item. Queries lie in strips of 64 dims, and so do keys
// and values of packed sequences; those of pages lie in groups of eight, each in strips. 80 keys of
// 256 dims are the most that fit; a product of fewer than 80 columns would wait for shared memory.
template <typename A, int kDims, int kCount>
struct Shape {
  static constexpr int kHeadDim = kDims, kWarpgroups = kCount;
  static constexpr int kThreads = kWarpgroupThreads * (1 + kWarpgroups);
  static constexpr int kBlocks = kWarpgroups == 1 ? 2 : 1;  // of a multiprocessor
  static constexpr int kStreamRegisters = kWarpgroups == 3 ? 32 : 40;
  static constexpr int kRegisters = kWarpgroups == 3 ? 160 : kWarpgroups == 2 ? 232 : 208;
  static constexpr int kQueries = kWarpgroups * kWarpgroupRows;
  static constexpr int kBoxQueries = A::kIsPaged ? kQueries : kPackedRows;
  static constexpr int kTileKeys = kHeadDim <= 128 ? 128 : 80;
  static constexpr int kStages = kHeadDim <= 64 && kBlocks == 1 ? 4 : 2;  // of keys, and of values
  static constexpr int kQueryStages = kHeadDim <= 128 ? 2 : 1;
  static constexpr int kStrips = kHeadDim / kStripColumns;
  static constexpr int kQueryStripBytes = kQueries * kRowBytes;
  static constexpr int kKeyStripBytes = A::kIsPaged ? kGroupBytes : kTileKeys * kRowBytes;
  static constexpr int kKeyGroupBytes = A::kIsPaged ? kStrips * kGroupBytes : kGroupBytes;
  static constexpr int kQueryBytes = kStrips * kQueryStripBytes;
  static constexpr int kTileBytes = kStrips * kTileKeys * kRowBytes;
  static constexpr int kSharedBytes =
      kAlignment + kQueryStages * kQueryBytes + 2 * kStages * kTileBytes;
};

// What copies count in, and kLanes of every consuming warp behind their last use.
template <int kCount_, int kLanes_ = 1>
struct Barriers {
  static constexpr int kCount = kCount_, kLanes = kLanes_;
  uint64_t full[kCount], empty[kCount];
};

template <typename S>
struct Control {
  Barriers<S::kStages> keys, values;
  Barriers<S::kQueryStages, 32> queries;  // all lanes, since all of them read the items
  PrefillItem items[kItems];              // in turn; one without rows is the end
};

struct Maps {
  CUtensorMap queries, keys, values;
  int box_keys;  // of the cache, of one box; divides the tile and a page
};

#ifdef FT_WGMMA

template <typename S, typename B>
__device__ void init(B& barriers) {
  for (int i = 0; i < B::kCount; ++i) {
    device::barrier_init(&barriers.full[i], 1);
    device::barrier_init(&barriers.empty[i], S::kWarpgroups * kWarpgroupThreads / 32 * B::kLanes);
  }
}

template <typename S>
struct Tiles {
  char* start;

  __device__ explicit Tiles(char* shared)
      : start(shared + (kAlignment - device::shared_address(shared) % kAlignment) % kAlignment) {}
  __device__ char* queries(int stage) const { return start + stage * S::kQueryBytes; }
  __device__ char* keys(int stage) const {
    return queries(S::kQueryStages) + stage * S::kTileBytes;
  }
  __device__ char* values(int stage) const { return keys(S::kStages + stage); }
};

// The items of a block: those of all blocks go back and forth over the list.
__device__ inline int item_index(int round) {
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  return round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
}

// What a warp knows of the work of its block, for every kind of attention: whether a block may have
// any, its items in turn, and where keys and values of a tile come from.
template <typename A, typename S>
class Source;

// A warp for the queries, one for keys and one for values: none waits for another, and a thread
// that starts copies takes its time.
template <typename A, typename S>
class Stream {
  using Stages = Barriers<S::kStages>;

 public:
  __device__ Stream(const A& a, const Maps& maps, char* shared, Control<S>& control)
      : a_(a), maps_(maps), tiles_(shared), control_(control), is_first_(threadIdx.x % 32 == 0) {}

  __device__ void run(int warp) {
    if (warp == 0) copy_queries();
    if (warp == 1) copy_tiles(maps_.keys, control_.keys, tiles_.keys(0));
    if (warp == 2) copy_tiles(maps_.values, control_.values, tiles_.values(0));
  }

 private:
  // Rows behind an item's last are those of others, or anything.
  __device__ void copy_queries() {
    device::prefetch_map(maps_.queries);
    Source<A, S> source(a_);
    device::RingPosition at;
    PrefillItem item;
    int place = 0;
    bool is_there = source.next(item);
    device::wait_for_predecessor();
    for (; is_there; is_there = source.next(item), at.advance(S::kQueryStages)) {
      uint64_t* const full = start_item(item, at, place);
      if (is_first_) copy_rows(item, tiles_.queries(at.stage), full);
    }
    item.num_rows = 0;
    uint64_t* const full = start_item(item, at, place);
    if (is_first_) device::barrier_arrive(full);
  }

  __device__ void copy_rows(const PrefillItem& item, char* to, uint64_t* full) {
    const int count = (item.num_rows + S::kBoxQueries - 1) / S::kBoxQueries;
    device::barrier_expect(full, count * S::kBoxQueries * S::kStrips * kRowBytes);
    const int end = item.token + item.num_rows;
#pragma unroll 1
    for (int token = item.token; token < end; token += S::kBoxQueries) {
#pragma unroll
      for (int i = 0; i < S::kStrips; ++i) {
        device::copy_box(to + i * S::kQueryStripBytes, maps_.queries, i * kStripColumns, item.head,
                         token, full, device::kEvictFirst);
      }
      to += S::kBoxQueries * kRowBytes;
    }
  }

  // Announces an item once there is room for its queries; what they count in.
  __device__ uint64_t* start_item(const PrefillItem& item, const device::RingPosition& at,
                                  int& place) {
    device::barrier_wait(&control_.queries.empty[at.stage], at.phase ^ 1);
    if (is_first_) control_.items[place] = item;
    place = (place + 1) % kItems;
    return &control_.queries.full[at.stage];
  }

  __device__ void copy_tiles(const CUtensorMap& map, Stages& barriers, char* stages) {
    device::prefetch_map(map);
    Source<A, S> source(a_);
    device::RingPosition at;
    PrefillItem item;
    bool is_there = source.next(item);
    device::wait_for_predecessor();
    for (; is_there; is_there = source.next(item)) {
      const int last = item.newest / S::kTileKeys;
#pragma unroll 1
      for (int tile = item.oldest / S::kTileKeys; tile <= last; ++tile, at.advance(S::kStages)) {
        const auto place = source.find_tile(item, tile, maps_);  // ahead of the wait
        device::barrier_wait(&barriers.empty[at.stage], at.phase ^ 1);
        uint64_t* const full = &barriers.full[at.stage];
        if (is_first_) device::barrier_expect(full, source.tile_bytes(place));
        source.copy_tile(place, maps_, map, full, stages + at.stage * S::kTileBytes);
      }
    }
  }

  const A& a_;
  const Maps& maps_;
  const Tiles<S> tiles_;
  Control<S>& control_;
  const bool is_first_;  // of its warp
};

#endif  // FT_WGMMA

}  // namespace ft::cuda::prefill_sm90
