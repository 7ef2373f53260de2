// SPDX-License-Identifier: BSD-3-Clause
// Attention of sequences with several queries, 16-bit types: a block takes a tile of queries of one
// head, its warps 16 or 32 rows each, and walks the keys it sees in tiles that start at multiples
// of kTileKeys of the sequence: a row's result does not depend on where a chunk of the prompt
// begins. The next keys are copied while weights are computed and values multiplied, the values
// while scores are. (FlashAttention-2, arXiv 2307.08691)
#pragma once

#include <algorithm>

#include "cuda/attention/packs.cuh"
#include "cuda/attention/prefill_rows.cuh"
#include "cuda/launch.h"
#include "device/copy_async.cuh"
#include "device/pdl.cuh"

namespace ft::cuda {

// The shared memory of a block, and the order of copies and products.
template <typename A, typename S, int kHeadDim, int kRowTiles>
class PrefillBlock {
  using T = typename A::Element;
  using Shape = PrefillShape<kHeadDim, kRowTiles>;
  static constexpr int kTileKeys = Shape::kTileKeys;
  using Threads = Packs<kPrefillThreads, Shape::kPacks>;

 public:
  __device__ PrefillBlock(const A& attention, char* shared)
      : a_(attention),
        rows_(attention),
        queries_(shared),
        keys_(queries_ + Shape::kQueryBytes),
        values_(keys_ + Shape::kTileBytes),
        offsets_(reinterpret_cast<int64_t*>(values_ + Shape::kTileBytes)) {}

  __device__ void run(const PrefillItem& item) {
    const int first = item.oldest / kTileKeys, last = item.newest / kTileKeys;
    const T* keys = a_.keys(item.kv_head);
    const T* values = a_.values(item.kv_head);
    rows_.reset();
    find_keys(item, first);
    copy_queries(item);
    __syncthreads();
    copy_tile(item, keys_, keys, first);
    device::commit_copies();
    for (int tile = first; tile <= last; ++tile) {
      if (tile < last) find_keys(item, tile + 1);
      device::wait_for_copies<0>();
      __syncthreads();  // the keys are there, and the values before were used
      copy_tile(item, values_, values, tile);
      device::commit_copies();
      const bool sees = rows_.sees_tile(item, tile);
      if (sees) rows_.score_keys(queries_, keys_);
      __syncthreads();  // the keys were used
      if (tile < last) copy_tile(item, keys_, keys, tile + 1);
      device::commit_copies();
      if (sees) rows_.weigh(item, tile);
      device::wait_for_copies<1>();
      __syncthreads();  // the values are there
      if (sees) rows_.add_values(values_);
    }
    rows_.store(item, queries_);
  }

 private:
  // Where the keys of a tile lie, -1 for those that no query of the block sees. Two
  // tiles are kept: the keys of one are copied before the values of the one before.
  __device__ void find_keys(const PrefillItem& item, int tile) {
    if (threadIdx.x >= kTileKeys) return;
    const int key = tile * kTileKeys + threadIdx.x;
    int64_t offset = -1;
    if (key >= item.oldest && key <= item.newest) offset = a_.offset_of_key(item.sequence, key);
    offsets_[tile % 2 * kTileKeys + threadIdx.x] = offset;
  }

  __device__ void copy_queries(const PrefillItem& item) {
    const Threads threads{static_cast<int>(threadIdx.x)};
#pragma unroll
    for (int i = 0; i < Threads::template kCount<Shape::kQueries>; ++i) {
      const int row = threads.row(i), dim = threads.column(i) * 8;
      const bool valid = row < item.num_rows && dim < a_.head_dim;
      device::copy_async(place(queries_, row, dim),
                         valid ? a_.query(item.token + row, item.head) + dim : a_.q, valid);
    }
  }

  __device__ void copy_tile(const PrefillItem& item, char* to, const T* head, int tile) {
    const int64_t* offsets = offsets_ + tile % 2 * kTileKeys;
    const bool is_whole = a_.head_dim == kHeadDim && tile * kTileKeys >= item.oldest &&
                          tile * kTileKeys + kTileKeys - 1 <= item.newest;
    is_whole ? copy_keys<true>(to, head, offsets) : copy_keys<false>(to, head, offsets);
  }

  template <bool kIsWhole>
  __device__ void copy_keys(char* to, const T* head, const int64_t* offsets) {
    const Threads threads{static_cast<int>(threadIdx.x)};
#pragma unroll
    for (int i = 0; i < Threads::template kCount<kTileKeys>; ++i) {
      const int row = threads.row(i), dim = threads.column(i) * 8;
      const int64_t offset = offsets[row];
      const bool valid = kIsWhole || (offset >= 0 && dim < a_.head_dim);
      device::copy_async(place(to, row, dim), valid ? head + dim + offset : head, valid);
    }
  }

  __device__ char* place(char* tile, int row, int dim) const {
    return tile + row * Shape::kRowBytes + dim * static_cast<int>(sizeof(T));
  }

  const A& a_;
  PrefillRows<A, S, kHeadDim, kRowTiles> rows_;
  char* queries_;
  char* keys_;
  char* values_;
  int64_t* offsets_;
};

// `num_items(a, Shape)` and `find_item(a, Shape, index)`, called by the whole block, say how
// queries are divided into items; those without rows are nothing to do.
template <typename A, typename S, int kHeadDim, int kRowTiles>
__global__ void __launch_bounds__(kPrefillThreads, kRowTiles == 1 && kHeadDim <= 96 ? 3 : 2)
    prefill_kernel(const A a) {
  using Shape = PrefillShape<kHeadDim, kRowTiles>;
  extern __shared__ __align__(16) char shared[];
  const int count = num_items(a, Shape{}), first = blockIdx.x;
  // The first block waits in any case: the kernel must not end before the one in front of it.
  if (first > 0 && first >= count) return;
  device::wait_for_predecessor();
  PrefillBlock<A, S, kHeadDim, kRowTiles> block(a, shared);
  for (int i = first; i < count; i += gridDim.x) {
    const PrefillItem item = find_item(a, Shape{}, i);
    if (item.num_rows > 0) block.run(item);
    __syncthreads();  // the shared memory is free again
  }
}

template <typename S, int kHeadDim, int kRowTiles, typename A>
void launch_prefill_shape(const A& attention, int64_t stream) {
  using Shape = PrefillShape<kHeadDim, kRowTiles>;
  const auto kernel = prefill_kernel<A, S, kHeadDim, kRowTiles>;
  static const bool allowed = (allow_shared(A::kOp, kernel, Shape::kSharedBytes), true);
  (void)allowed;
  launch(A::kOp, kernel, num_blocks(attention, Shape{}), kPrefillThreads, Shape::kSharedBytes,
         stream, attention);
}

// With 32 rows a warp reads keys and values half as often; with 16, few tiles keep more
// multiprocessors busy. Sums of 32 rows of 256 dims would not fit into the registers.
template <typename S, int kMaxRowTiles, int kHeadDim, typename A>
void launch_prefill_head(const A& attention, int64_t stream) {
  if constexpr (kMaxRowTiles > 1 && kHeadDim <= 128) {
    const int64_t resident = 2 * num_multiprocessors();
    if (2 * num_full_tiles(attention) * attention.num_heads >= 3 * resident) {
      return launch_prefill_shape<S, kHeadDim, 2>(attention, stream);
    }
  }
  launch_prefill_shape<S, kHeadDim, 1>(attention, stream);
}

// With the first of the head sizes, which ascend, that holds a head of `attention`: each is a
// kernel that takes long to compile. Its argument has `num_blocks(attention, Shape)` blocks and
// `num_full_tiles(attention)` tiles of kTileQueries queries.
template <typename S, int kMaxRowTiles, int kHeadDim, int... kLarger, typename A>
void launch_prefill_heads(const A& attention, int64_t stream) {
  if constexpr (sizeof...(kLarger) > 0) {
    if (attention.head_dim > kHeadDim) {
      return launch_prefill_heads<S, kMaxRowTiles, kLarger...>(attention, stream);
    }
  }
  launch_prefill_head<S, kMaxRowTiles, kHeadDim>(attention, stream);
}

}  // namespace ft::cuda
