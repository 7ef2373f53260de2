// SPDX-License-Identifier: BSD-3-Clause
// The paged cache for prefill_sm90.cuh: the tiles of the plan, those that take longest first.
#pragma once

#include "cuda/attention/prefill_sm90_stream.cuh"

namespace ft::cuda::prefill_sm90 {

#ifdef FT_WGMMA

template <typename T, typename S>
class Source<Attention<T>, S> {
  static_assert(S::kQueries == kTileQueries);  // of the plan

 public:
  __device__ explicit Source(const Attention<T>& a)
      : a_(a), count_(num_items(a)), lane_(threadIdx.x % 32) {}

  __device__ static bool may_have_items(const Attention<T>& a) {
    return static_cast<int>(blockIdx.x) < num_items(a);
  }

  // The next item of the block; false behind the last one.
  __device__ bool next(PrefillItem& item) {
    const int index = item_index(round_++);
    if (index >= count_) return false;
    item = find_item(index);
    return true;
  }

  // Of the lane's box of a tile: where it starts.
  struct Place {
    int group, page;
  };

  // Keys that nobody sees may have no page, and are copied from behind the last page, where all is
  // zero.
  __device__ Place find_tile(const PrefillItem& item, int tile, const Maps& maps) const {
    const int key = tile * S::kTileKeys + lane_ * maps.box_keys;
    const int group = (item.kv_head * a_.block_size + key % a_.block_size) / kCacheGroupKeys;
    if (key > item.newest || key + maps.box_keys <= item.oldest) return {group, a_.num_pages};
    return {group, a_.block_tables[item.sequence * a_.table_stride + key / a_.block_size]};
  }

  __device__ int tile_bytes(const Place& /*place*/) const { return S::kTileBytes; }

  // Every lane has found a box; one starts their copies.
  __device__ void copy_tile(const Place& place, const Maps& maps, const CUtensorMap& map,
                            uint64_t* full, char* to) const {
    const int count = S::kTileKeys / maps.box_keys;
    for (int i = 0; i < count; ++i, to += maps.box_keys / kCacheGroupKeys * S::kKeyGroupBytes) {
      const int group = __shfl_sync(0xffffffffu, place.group, i);
      const int page = __shfl_sync(0xffffffffu, place.page, i);
      if (lane_ == 0) device::copy_keys(to, map, group, page, full, device::kEvictLast);
    }
  }

 private:
  __device__ static int num_items(const Attention<T>& a) {
    return a.work[2 * a.num_sequences + 1] * a.num_heads;
  }

  __device__ PrefillItem find_item(int index) const {
    const int* cumulative = a_.work + a_.num_sequences + 1;
    const int tile = cumulative[a_.num_sequences] - 1 - index / a_.num_heads;
    unsigned found = 0;
    int first = -32;
    while (found == 0) {
      first += 32;
      const int i = first + lane_;
      found = __ballot_sync(0xffffffffu, i < a_.num_sequences && tile < cumulative[i + 1]);
    }
    const int sequence = first + __ffs(static_cast<int>(found)) - 1;
    return make_item(a_, sequence, index % a_.num_heads,
                     (tile - cumulative[sequence]) * kTileQueries, kTileQueries);
  }

  const Attention<T>& a_;
  const int count_, lane_;
  int round_ = 0;
};

#endif  // FT_WGMMA

}  // namespace ft::cuda::prefill_sm90
