// SPDX-License-Identifier: BSD-3-Clause
// Keys and values on their way into the rings of attention with single queries.
#pragma once

#include "cuda/attention/decode_plan.cuh"
#include "cuda/attention/packs.cuh"
#include "device/copy_async.cuh"

namespace ft::cuda {

// Brings the groups of one warp into its rings, in the order in which they are used.
template <typename T, int kHeadDim>
class DecodeStream {
  using Shape = DecodeShape<kHeadDim>;
  static constexpr int kPacks = kHeadDim / 8;  // of a key
  static constexpr int kLanePacks = Packs<32, kPacks>::template kCount<kGroupKeys>;

 public:
  __device__ DecodeStream(const Attention<T>& attention, char* ring, int warp, int num_warps,
                          int lane)
      : attention_(attention),
        ring_(ring),
        warp_(warp),
        num_warps_(num_warps),
        lane_(lane),
        has_whole_groups_(attention.block_size % kGroupKeys == 0 &&
                          attention.key_stride == kHeadDim && attention.head_dim == kHeadDim) {}

  __device__ char* keys(int stage) const { return ring_ + stage * Shape::kTileBytes; }
  __device__ char* values(int stage) const { return keys(Shape::kStages + stage); }

  // On to this warp's groups of these items.
  __device__ void start(const DecodeItem* items, int num_items) {
    item_ = items;
    end_ = items + num_items;
    worker_ = warp_;
    enter_item();
  }

  // Whether the next group holds a key of this step.
  __device__ bool has_newest() const {
    return !is_done() && min(key_ + kGroupKeys, item_->end) == item_->length;
  }

  // The next group into a stage of the rings: two groups of copies, empty ones at the end.
  __device__ void copy(int stage) {
#pragma unroll 1
    for (const bool is_value : {false, true}) {
      copy(is_value ? values(stage) : keys(stage),
           is_value ? attention_.v_cache : attention_.k_cache);
    }
    if (!is_done()) advance();
  }
  __device__ void copy_keys(int stage) { copy(keys(stage), attention_.k_cache); }
  // Behind the keys; then it is the turn of the next group.
  __device__ void copy_values(int stage) {
    copy(values(stage), attention_.v_cache);
    if (!is_done()) advance();
  }

 private:
  __device__ bool is_done() const { return item_ == end_; }

  __device__ void enter_item() {
    for (; !is_done(); next_item()) {
      key_ = item_->first_key() + worker_ * kGroupKeys;
      if (key_ < item_->end) return find_row();
    }
  }

  __device__ void next_item() {
    ++item_;
    if (++worker_ == num_warps_) worker_ = 0;
  }

  __device__ void advance() {
    key_ += num_warps_ * kGroupKeys;
    if (key_ < item_->end) return find_row();
    next_item();
    enter_item();
  }

  __device__ bool is_visible(int row) const {
    return key_ + row >= item_->begin && key_ + row < item_->end;
  }

  // Lane i looks up key i % 16, long before it is needed.
  __device__ void find_row() {
    const Attention<T>& a = attention_;
    const int row = lane_ % kGroupKeys, page = (key_ + row) / a.block_size;
    slot_ = key_ + row - page * a.block_size;
    page_ = is_visible(row) ? a.block_tables[item_->sequence * a.table_stride + page] : 0;
  }

  __device__ void copy(char* tile, const T* cache) const {
    if (!is_done()) {
      const T* head = cache + item_->kv_head * attention_.kv_head_stride;
      const int64_t offset = attention_.key_offset(page_, slot_);
      if (has_whole_groups_ && is_visible(0) && is_visible(kGroupKeys - 1)) {
        copy_whole(tile, head + offset - lane_ % kGroupKeys * kHeadDim);
      } else {
        const int row = lane_ % kGroupKeys;
        copy_rows(tile, head, is_visible(row) ? offset : -1, attention_.head_dim, lane_);
      }
    }
    device::commit_copies();
  }

  static __device__ char* place(char* tile, int index, int lane) {
    const Packs<32, kPacks> packs{lane};
    return tile + packs.row(index) * Shape::kRowBytes + packs.column(index) * 16;
  }

  // All keys are visible and lie side by side.
  __device__ void copy_whole(char* tile, const T* first) const {
    const T* from = first + lane_ * 8;
#pragma unroll
    for (int i = 0; i < kLanePacks; ++i) {
      device::copy_async(place(tile, i, lane_), from + i * 256, true);
    }
  }

  // Lane i has the offset of key i % 16, or -1. A function of its own: code takes time to arrive,
  // too, and few groups need this.
  static __device__ __noinline__ void copy_rows(char* tile, const T* head, int64_t offset,
                                                int head_dim, int lane) {
    const Packs<32, kPacks> packs{lane};
#pragma unroll
    for (int i = 0; i < kLanePacks; ++i) {
      const int dim = packs.column(i) * 8;
      const int64_t from = __shfl_sync(0xffffffffu, offset, packs.row(i));
      const bool valid = from >= 0 && dim < head_dim;
      device::copy_async(place(tile, i, lane), valid ? head + from + dim : head, valid);
    }
  }

  const Attention<T>& attention_;
  char* ring_;
  const DecodeItem *item_, *end_;
  int key_, page_, slot_;
  int warp_, worker_, num_warps_, lane_;
  bool has_whole_groups_;
};

}  // namespace ft::cuda
