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
template <typename T, int kHeadDim, int kRowTiles>
class PrefillBlock {
  using Shape = PrefillShape<kHeadDim, kRowTiles>;
  static constexpr int kTileKeys = Shape::kTileKeys;
  using Threads = Packs<kPrefillThreads, Shape::kPacks>;

 public:
  __device__ PrefillBlock(const Attention<T>& attention, char* shared)
      : a_(attention),
        rows_(attention),
        queries_(shared),
        keys_(queries_ + Shape::kQueryBytes),
        values_(keys_ + Shape::kTileBytes),
        offsets_(reinterpret_cast<int64_t*>(values_ + Shape::kTileBytes)) {}

  __device__ void run(const PrefillItem& item) {
    const int first = item.oldest / kTileKeys, last = item.last_position() / kTileKeys;
    rows_.reset();
    find_keys(item, first);
    copy_queries(item);
    __syncthreads();
    copy_tile(item, keys_, a_.k_cache, first);
    device::commit_copies();
    for (int tile = first; tile <= last; ++tile) {
      if (tile < last) find_keys(item, tile + 1);
      device::wait_for_copies<0>();
      __syncthreads();  // the keys are there, and the values before were used
      copy_tile(item, values_, a_.v_cache, tile);
      device::commit_copies();
      const bool sees = rows_.sees_tile(item, tile);
      if (sees) rows_.score_keys(queries_, keys_);
      __syncthreads();  // the keys were used
      if (tile < last) copy_tile(item, keys_, a_.k_cache, tile + 1);
      device::commit_copies();
      if (sees) rows_.weigh(item, tile);
      device::wait_for_copies<1>();
      __syncthreads();  // the values are there
      if (sees) rows_.add_values(values_);
    }
    rows_.store(item, queries_);
  }

 private:
  // Where the keys of a tile lie in the cache, -1 for those that no query of the block sees. Two
  // tiles are kept: the keys of one are copied before the values of the one before.
  __device__ void find_keys(const PrefillItem& item, int tile) {
    if (threadIdx.x >= kTileKeys) return;
    const int key = tile * kTileKeys + threadIdx.x;
    int64_t offset = -1;
    if (key >= item.oldest && key <= item.last_position()) {
      const int page = key / a_.block_size;
      offset = a_.key_offset(a_.block_tables[item.sequence * a_.table_stride + page],
                             key - page * a_.block_size);
    }
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

  __device__ void copy_tile(const PrefillItem& item, char* to, const T* cache, int tile) {
    const T* head = cache + item.kv_head * a_.kv_head_stride;
    const int64_t* offsets = offsets_ + tile % 2 * kTileKeys;
    const bool is_whole = a_.head_dim == kHeadDim && tile * kTileKeys >= item.oldest &&
                          tile * kTileKeys + kTileKeys - 1 <= item.last_position();
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

  const Attention<T>& a_;
  PrefillRows<T, kHeadDim, kRowTiles> rows_;
  char* queries_;
  char* keys_;
  char* values_;
  int64_t* offsets_;
};

// The block's item number `index`, the tiles with the most keys first; no rows if there is none.
template <typename Shape, typename T>
__device__ PrefillItem find_prefill_item(const Attention<T>& a, int index, int num_units,
                                         int* shared_sequence) {
  const int* cumulative = a.work + a.num_sequences + 1;
  const int unit = num_units - 1 - index / a.num_heads, tile = unit / Shape::kParts;
  for (int i = threadIdx.x; i < a.num_sequences; i += kPrefillThreads) {
    if (cumulative[i] <= tile && tile < cumulative[i + 1]) *shared_sequence = i;
  }
  __syncthreads();
  PrefillItem item;
  item.sequence = *shared_sequence;
  item.head = index % a.num_heads;
  item.kv_head = item.head / (a.num_heads / a.num_kv_heads);
  const int start = a.cu_seqlens_q[item.sequence];
  const int num_queries = a.cu_seqlens_q[item.sequence + 1] - start;
  const int first =
      (tile - cumulative[item.sequence]) * kTileQueries + unit % Shape::kParts * Shape::kQueries;
  item.token = start + first;
  item.num_rows = min(Shape::kQueries, num_queries - first);
  item.position = a.seq_lens[item.sequence] - num_queries + first;
  item.oldest = a.oldest_visible(item.position);
  return item;
}

template <typename T, int kHeadDim, int kRowTiles>
__global__ void __launch_bounds__(kPrefillThreads, kRowTiles == 1 && kHeadDim <= 96 ? 3 : 2)
    prefill_kernel(const Attention<T> a) {
  using Shape = PrefillShape<kHeadDim, kRowTiles>;
  extern __shared__ __align__(16) char shared[];
  __shared__ int sequence;
  const int num_units = a.work[2 * a.num_sequences + 1] * Shape::kParts;
  const int num_items = num_units * a.num_heads, first = blockIdx.x;
  // The first block waits in any case: the kernel must not end before the one in front of it.
  if (first > 0 && first >= num_items) return;
  device::wait_for_predecessor(a.num_tokens);
  PrefillBlock<T, kHeadDim, kRowTiles> block(a, shared);
  for (int i = first; i < num_items; i += gridDim.x) {
    const PrefillItem item = find_prefill_item<Shape>(a, i, num_units, &sequence);
    if (item.num_rows > 0) block.run(item);
    __syncthreads();  // the shared memory is free again
  }
}

template <typename T, int kHeadDim, int kRowTiles>
void launch_prefill_of(const Attention<T>& attention, int64_t num_tiles, int64_t stream) {
  const char* op = "paged_attention";
  using Shape = PrefillShape<kHeadDim, kRowTiles>;
  const auto kernel = prefill_kernel<T, kHeadDim, kRowTiles>;
  static const bool allowed = (allow_shared(op, kernel, Shape::kSharedBytes), true);
  (void)allowed;
  launch(op, kernel, static_cast<unsigned>(num_tiles * Shape::kParts * attention.num_heads),
         kPrefillThreads, Shape::kSharedBytes, stream, attention);
}

// With 32 rows a warp reads keys and values half as often; with 16, few tiles keep more
// multiprocessors busy. Sums of 32 rows of 256 dims would not fit into the registers.
template <typename T, int kHeadDim>
void launch_prefill_of(const Attention<T>& attention, int64_t stream) {
  // Each sequence may leave one tile unfilled. Blocks take several tiles when many do: most batches
  // have few prompts among many single queries, and a block without work is not free.
  constexpr int kUnfilled = 32;
  const int64_t filled = attention.num_tokens / kTileQueries;
  const int64_t tiles = filled + std::min(attention.num_sequences, kUnfilled);
  if constexpr (kHeadDim <= 128) {
    const int64_t resident = 2 * num_multiprocessors();
    if (2 * filled * attention.num_heads >= 3 * resident) {
      return launch_prefill_of<T, kHeadDim, 2>(attention, tiles, stream);
    }
  }
  launch_prefill_of<T, kHeadDim, 1>(attention, tiles, stream);
}

template <typename T>
void launch_prefill(const Attention<T>& attention, int64_t stream) {
  const int head_dim = attention.head_dim;
  if (head_dim <= 64) return launch_prefill_of<T, 64>(attention, stream);
  if (head_dim <= 80) return launch_prefill_of<T, 80>(attention, stream);
  if (head_dim <= 96) return launch_prefill_of<T, 96>(attention, stream);
  if (head_dim <= 128) return launch_prefill_of<T, 128>(attention, stream);
  launch_prefill_of<T, 256>(attention, stream);
}

}  // namespace ft::cuda
