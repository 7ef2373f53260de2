// SPDX-License-Identifier: BSD-3-Clause
// Attention of sequences with several queries, 16-bit types: a block takes a tile of queries of one
// head, its warps 16 or 32 rows each, and walks the keys it sees in tiles that start at multiples
// of kTileKeys of the sequence: a row's result does not depend on where a chunk of the prompt
// begins. The next keys are copied while weights are computed and values multiplied, the values
// while scores are. (FlashAttention-2, arXiv 2307.08691)
#pragma once

#include <algorithm>

#include "cuda/attention/prefill_rows.cuh"
#include "cuda/launch.h"
#include "device/copy_async.cuh"
#include "device/pdl.cuh"

namespace ft::cuda {

// The shared memory of a block, and the order of copies and products.
template <typename T, int kHeadDim>
class PrefillBlock {
  using Shape = PrefillShape<kHeadDim>;

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
#pragma unroll
    for (int i = threadIdx.x; i < Shape::kQueries * Shape::kPacks; i += kPrefillThreads) {
      const int row = i / Shape::kPacks, pack = i % Shape::kPacks;
      const bool valid = row < item.num_rows && pack * 8 < a_.head_dim;
      device::copy_async(queries_ + row * Shape::kRowBytes + pack * 16,
                         valid ? a_.query(item.token + row, item.head) + pack * 8 : a_.q, valid);
    }
  }

  __device__ void copy_tile(const PrefillItem& item, char* to, const T* cache, int tile) {
    const T* head = cache + item.kv_head * a_.kv_head_stride;
    const int64_t* offsets = offsets_ + tile % 2 * kTileKeys;
#pragma unroll
    for (int i = threadIdx.x; i < kTileKeys * Shape::kPacks; i += kPrefillThreads) {
      const int row = i / Shape::kPacks, pack = i % Shape::kPacks;
      const int64_t offset = offsets[row];
      const bool valid = offset >= 0 && pack * 8 < a_.head_dim;
      device::copy_async(to + row * Shape::kRowBytes + pack * 16,
                         valid ? head + offset + pack * 8 : cache, valid);
    }
  }

  const Attention<T>& a_;
  PrefillRows<T, kHeadDim> rows_;
  char* queries_;
  char* keys_;
  char* values_;
  int64_t* offsets_;
};

// The block's item number `index`, the tiles with the most keys first; no rows if there is none.
template <typename T, int kHeadDim>
__device__ PrefillItem find_prefill_item(const Attention<T>& a, int index, int num_units,
                                         int* shared_sequence) {
  using Shape = PrefillShape<kHeadDim>;
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

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kPrefillThreads, 2) prefill_kernel(const Attention<T> a) {
  extern __shared__ __align__(16) char shared[];
  __shared__ int sequence;
  const int num_units = a.work[2 * a.num_sequences + 1] * PrefillShape<kHeadDim>::kParts;
  // The first block waits in any case: the kernel must not end before the one in front of it.
  if (blockIdx.x > 0 && blockIdx.x >= num_units * a.num_heads) return;
  device::wait_for_predecessor(a.num_tokens);
  PrefillBlock<T, kHeadDim> block(a, shared);
  for (int i = blockIdx.x; i < num_units * a.num_heads; i += gridDim.x) {
    const PrefillItem item = find_prefill_item<T, kHeadDim>(a, i, num_units, &sequence);
    if (item.num_rows > 0) block.run(item);
    __syncthreads();  // the shared memory is free again
  }
}

template <typename T, int kHeadDim>
void launch_prefill_of(const Attention<T>& attention, int64_t stream) {
  const char* op = "paged_attention";
  using Shape = PrefillShape<kHeadDim>;
  const auto kernel = prefill_kernel<T, kHeadDim>;
  static const bool allowed = (allow_shared(op, kernel, Shape::kSharedBytes), true);
  (void)allowed;
  // Each sequence may leave one tile unfilled. Blocks take several tiles when many do: most batches
  // have few prompts among many single queries, and a block without work is not free.
  constexpr int kUnfilled = 32;
  const int64_t tiles =
      attention.num_tokens / kTileQueries + std::min(attention.num_sequences, kUnfilled);
  launch(op, kernel, static_cast<unsigned>(tiles * Shape::kParts * attention.num_heads),
         kPrefillThreads, Shape::kSharedBytes, stream, attention);
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
