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
  __device__ DecodeStream(const DecodePlan<T>& plan, char* ring, int warp, int num_warps, int lane)
      : plan_(plan),
        ring_(ring),
        index_(blockIdx.x),
        first_(warp * kGroupKeys),
        step_(num_warps * kGroupKeys),
        lane_(lane),
        has_whole_groups_(plan.attention.block_size % kGroupKeys == 0 &&
                          plan.attention.key_stride == kHeadDim &&
                          plan.attention.head_dim == kHeadDim) {
    enter_item();
  }

  __device__ char* keys(int stage) const { return ring_ + stage * Shape::kTileBytes; }
  __device__ char* values(int stage) const { return keys(Shape::kStages + stage); }

  // Whether the next group holds a key of this step.
  __device__ bool has_newest() const {
    return !is_done() && min(key_ + kGroupKeys, item_.end) == item_.length;
  }

  // The next group into a stage of the rings: two groups of copies, empty ones at the end.
  __device__ void copy(int stage) {
    copy_keys(stage);
    copy_values(stage);
  }
  __device__ void copy_keys(int stage) { copy(keys(stage), plan_.attention.k_cache); }
  // Behind the keys; then it is the turn of the next group.
  __device__ void copy_values(int stage) {
    copy(values(stage), plan_.attention.v_cache);
    if (!is_done()) advance();
  }

 private:
  __device__ bool is_done() const { return index_ >= plan_.num_items; }

  __device__ void enter_item() {
    for (; !is_done(); index_ += gridDim.x) {
      item_ = plan_[index_];
      key_ = item_.first_key() + first_;
      if (key_ < item_.end) return find_row();
    }
  }

  __device__ void advance() {
    key_ += step_;
    if (key_ < item_.end) return find_row();
    index_ += gridDim.x;
    enter_item();
  }

  __device__ bool is_visible(int row) const {
    return key_ + row >= item_.begin && key_ + row < item_.end;
  }

  // Lane i looks up key i % 16, long before it is needed.
  __device__ void find_row() {
    const Attention<T>& a = plan_.attention;
    const int row = lane_ % kGroupKeys, page = (key_ + row) / a.block_size;
    slot_ = key_ + row - page * a.block_size;
    page_ = is_visible(row) ? a.block_tables[item_.sequence * a.table_stride + page] : 0;
    is_whole_ = has_whole_groups_ && is_visible(0) && is_visible(kGroupKeys - 1);
  }

  __device__ void copy(char* tile, const T* cache) {
    if (!is_done()) {
      const T* head = cache + item_.kv_head * plan_.attention.kv_head_stride;
      is_whole_ ? copy_whole(tile, head) : copy_rows(tile, head);
    }
    device::commit_copies();
  }

  __device__ char* place(char* tile, int index) const {
    const Packs<32, kPacks> packs{lane_};
    return tile + packs.row(index) * Shape::kRowBytes + packs.column(index) * 16;
  }

  // All keys are visible and lie side by side.
  __device__ void copy_whole(char* tile, const T* head) {
    const T* from =
        head + plan_.attention.key_offset(page_, slot_ - lane_ % kGroupKeys) + lane_ * 8;
#pragma unroll
    for (int i = 0; i < kLanePacks; ++i) device::copy_async(place(tile, i), from + i * 256, true);
  }

  __device__ void copy_rows(char* tile, const T* head) {
    const Packs<32, kPacks> packs{lane_};
    const int64_t offset = plan_.attention.key_offset(page_, slot_);
#pragma unroll
    for (int i = 0; i < kLanePacks; ++i) {
      const int dim = packs.column(i) * 8;
      const int64_t from = __shfl_sync(0xffffffffu, offset, packs.row(i));
      const bool valid = is_visible(packs.row(i)) && dim < plan_.attention.head_dim;
      device::copy_async(place(tile, i), valid ? head + from + dim : head, valid);
    }
  }

  const DecodePlan<T>& plan_;
  char* ring_;
  DecodeItem item_;
  int index_, key_, page_, slot_;
  int first_, step_, lane_;
  bool has_whole_groups_, is_whole_;
};

}  // namespace ft::cuda
