// SPDX-License-Identifier: BSD-3-Clause
// What a block of prefill_sm90.cuh keeps in shared memory, and the warps that fill it.
#pragma once

#include "cuda/attention/attention.cuh"
#include "cuda/attention/prefill_item.cuh"
#include "cuda/tensor_map.h"
#include "device/pdl.cuh"
#include "device/wgmma.cuh"

namespace ft::cuda::prefill_sm90 {

constexpr int kWarpgroupThreads = 128;
constexpr int kWarpgroups = 2;  // each has 64 rows of queries
constexpr int kConsumerWarps = kWarpgroups * kWarpgroupThreads / 32;
constexpr int kThreads = kWarpgroupThreads * (1 + kWarpgroups);
constexpr int kWarpgroupRows = kTileQueries / kWarpgroups;
constexpr int kRowBytes = 2 * kStripColumns;  // of a strip
constexpr int kGroupBytes = kGroupKeys * kRowBytes;
constexpr int kStages = 2;
constexpr int kAlignment = 1024;  // of a swizzled strip

// Queries lie in strips of 64 dims, keys and values in groups of eight, each in strips. 80 keys of
// 256 dims are the most that fit; a product of fewer than 80 columns would wait for shared memory.
template <int kHeadDim>
struct Shape {
  static constexpr int kTileKeys = kHeadDim <= 128 ? 128 : 80;
  static constexpr int kStrips = kHeadDim / kStripColumns;
  static constexpr int kQueryStripBytes = kTileQueries * kRowBytes;
  static constexpr int kKeyGroupBytes = kStrips * kGroupBytes;
  static constexpr int kQueryBytes = kStrips * kQueryStripBytes;
  static constexpr int kTileBytes = kTileKeys / kGroupKeys * kKeyGroupBytes;
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
  PrefillItem items[2];  // by the phase of their queries; one without rows is the end
};

struct Maps {
  CUtensorMap queries, keys, values;
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

// A warp for the queries, one for keys and one for values: none waits for another, and a thread
// that starts copies takes its time.
template <typename T, int kHeadDim>
class Stream {
  using S = Shape<kHeadDim>;

 public:
  __device__ Stream(const Attention<T>& a, const Maps& maps, char* shared, Control& control)
      : a_(a), maps_(maps), tiles_(shared), control_(control), lane_(threadIdx.x % 32) {}

  __device__ void run(int warp) {
    if (warp == 0) copy_queries();
    if (warp == 1) copy_tiles(maps_.keys, control_.keys, tiles_.keys(0));
    if (warp == 2) copy_tiles(maps_.values, control_.values, tiles_.values(0));
  }

 private:
  // Rows behind an item's last are those of others, or zero. Where an item is written, the one
  // before the last was stored before the last one's queries were free.
  __device__ void copy_queries() {
    device::prefetch_map(maps_.queries);
    uint64_t* const full = control_.queries.full;
    const int count = num_items(a_);
    int phase = 0;
    for (int round = 0; item_index(round) < count; ++round, phase ^= 1) {
      const PrefillItem item = find_item(a_, item_index(round));
      if (round == 0) device::wait_for_predecessor(a_.num_tokens);
      device::barrier_wait(control_.queries.empty, phase ^ 1);
      if (lane_ != 0) continue;
      control_.items[phase] = item;
      device::barrier_expect(full, S::kQueryBytes);
#pragma unroll
      for (int i = 0; i < S::kStrips; ++i) {
        device::copy_box(tiles_.queries + i * S::kQueryStripBytes, maps_.queries, i * kStripColumns,
                         item.head, item.token, full, device::kEvictFirst);
      }
    }
    device::barrier_wait(control_.queries.empty, phase ^ 1);
    if (lane_ != 0) return;
    control_.items[phase].num_rows = 0;
    device::barrier_arrive(full);
  }

  __device__ void copy_tiles(const CUtensorMap& map, Barriers<kStages>& barriers, char* stages) {
    device::prefetch_map(map);
    const int count = num_items(a_);
    Position at;
    for (int round = 0; item_index(round) < count; ++round) {
      const PrefillItem item = find_item(a_, item_index(round));
      if (round == 0) device::wait_for_predecessor(a_.num_tokens);
      const int last = item.newest / S::kTileKeys;
      for (int tile = item.oldest / S::kTileKeys; tile <= last; ++tile, at.advance()) {
        const int group = find_group(item, tile);  // while the stage is in use
        const int page = find_page(item, tile);
        device::barrier_wait(&barriers.empty[at.stage], at.phase ^ 1);
        if (lane_ == 0) device::barrier_expect(&barriers.full[at.stage], S::kTileBytes);
        copy_tile(map, group, page, &barriers.full[at.stage], stages + at.stage * S::kTileBytes);
      }
    }
  }

  // Every lane has found a box; one starts their copies.
  __device__ void copy_tile(const CUtensorMap& map, int group, int page, uint64_t* full, char* to) {
    const int count = S::kTileKeys / maps_.box_keys;
    for (int i = 0; i < count; ++i, to += maps_.box_keys / kGroupKeys * S::kKeyGroupBytes) {
      const int box_group = __shfl_sync(0xffffffffu, group, i);
      const int box_page = __shfl_sync(0xffffffffu, page, i);
      if (lane_ == 0) device::copy_keys(to, map, box_group, box_page, full, device::kEvictLast);
    }
  }

  __device__ int first_key(int tile) const { return tile * S::kTileKeys + lane_ * maps_.box_keys; }

  // Of the lane's box of a tile: where it starts in its page.
  __device__ int find_group(const PrefillItem& item, int tile) const {
    return (item.kv_head * a_.block_size + first_key(tile) % a_.block_size) / kGroupKeys;
  }

  // Keys that nobody sees may have no page, and are copied from behind the last page, where all is
  // zero.
  __device__ int find_page(const PrefillItem& item, int tile) const {
    const int key = first_key(tile);
    if (key > item.newest || key + maps_.box_keys <= item.oldest) return a_.num_pages;
    return a_.block_tables[item.sequence * a_.table_stride + key / a_.block_size];
  }

  const Attention<T>& a_;
  const Maps& maps_;
  const Tiles<kHeadDim> tiles_;
  Control& control_;
  const int lane_;
};

#endif  // FT_WGMMA

}  // namespace ft::cuda::prefill_sm90
