// SPDX-License-Identifier: BSD-3-Clause
// Packed sequences for prefill_sm90.cuh: the tiles of each in turn, which only the device knows.
#pragma once

#include "cuda/attention/packed.cuh"
#include "cuda/attention/prefill_sm90_stream.cuh"

namespace ft::cuda::prefill_sm90 {

#ifdef FT_WGMMA

// Items come in ascending order, and so the warp walks over the sequences once, 32 at a time.
template <typename T, typename S>
class Source<EncoderAttention<T>, S> {
  using A = EncoderAttention<T>;

 public:
  __device__ explicit Source(const A& a) : a_(a), lane_(threadIdx.x % 32) { count_tiles(); }

  __device__ static bool may_have_items(const A& /*a*/) { return true; }

  // The next item of the block; false behind the last one.
  __device__ bool next(PrefillItem& item) {
    const int index = item_index(round_++), tile = index / a_.num_heads;
    while (tile >= __shfl_sync(0xffffffffu, end_, 31)) {
      first_ += 32;
      if (first_ >= a_.num_sequences) return false;
      count_tiles();
    }
    const int lane = __ffs(static_cast<int>(__ballot_sync(0xffffffffu, tile < end_))) - 1;
    const int sequence = first_ + lane, end = __shfl_sync(0xffffffffu, end_, lane);
    item = make_item(a_, sequence, index - tile * a_.num_heads,
                     (tile - end + num_tiles(sequence)) * S::kQueries, S::kQueries);
    return true;
  }

  // The boxes of a tile that hold keys. Behind a sequence's end they have those of others, or zero.
  struct Place {
    int token, head, num_boxes;
  };

  __device__ Place find_tile(const PrefillItem& item, int tile, const Maps& /*maps*/) const {
    const int first = tile * S::kTileKeys, count = min(S::kTileKeys, item.num_keys - first);
    return {item.token - item.position + first, item.kv_head,
            (count + kPackedRows - 1) / kPackedRows};
  }

  __device__ int tile_bytes(const Place& place) const {
    return place.num_boxes * kPackedRows * S::kStrips * kRowBytes;
  }

  __device__ void copy_tile(const Place& place, const Maps& maps, const CUtensorMap& map,
                            uint64_t* full, char* to) const {
    if (lane_ != 0) return;
#pragma unroll 1
    for (int box = 0; box < place.num_boxes; ++box, to += kPackedRows * kRowBytes) {
#pragma unroll
      for (int i = 0; i < S::kStrips; ++i) {
        device::copy_box(to + i * S::kKeyStripBytes, map, i * kStripColumns, place.head,
                         place.token + box * kPackedRows, full, device::kEvictLast);
      }
    }
  }

 private:
  __device__ int num_tiles(int sequence) const {
    return (a_.num_queries(sequence) + S::kQueries - 1) / S::kQueries;
  }

  // The tiles of the lane's sequence end at end_.
  __device__ void count_tiles() {
    const int before = __shfl_sync(0xffffffffu, end_, 31), sequence = first_ + lane_;
    end_ = sequence < a_.num_sequences ? num_tiles(sequence) : 0;
#pragma unroll
    for (int width = 1; width < 32; width *= 2) {
      const int left = __shfl_up_sync(0xffffffffu, end_, width);
      if (lane_ >= width) end_ += left;
    }
    end_ += before;
  }

  const A& a_;
  const int lane_;
  int first_ = 0, end_ = 0, round_ = 0;
};

#endif  // FT_WGMMA

}  // namespace ft::cuda::prefill_sm90
