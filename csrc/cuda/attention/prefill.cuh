// SPDX-License-Identifier: BSD-3-Clause
// Attention of sequences with several queries, 16-bit types: a block takes a tile of queries of one
// head, its warps 16 or 32 rows each, and walks the keys it sees in tiles that start at multiples
// of kTileKeys of the sequence: a row's result does not depend on where a chunk of the prompt
// begins. The next keys are copied while weights are computed and values multiplied, the values
// while scores are. (FlashAttention-2, arXiv 2307.08691)
#pragma once

#include <algorithm>

#include "cuda/attention/attention.cuh"
#include "cuda/attention/limits.h"
#include "cuda/launch.h"
#include "device/copy_async.cuh"
#include "device/pdl.cuh"
#include "device/tensor_core.cuh"

namespace ft::cuda {

constexpr int kPrefillWarps = 4;
constexpr int kPrefillThreads = kPrefillWarps * 32;
constexpr int kTileKeys = 64;

template <int kHeadDim>
struct PrefillShape {
  // Sums of 32 rows of 256 dims would not fit into the registers of a warp.
  static constexpr int kRowTiles = kHeadDim <= 128 ? 2 : 1;  // of 16 rows, for each warp
  static constexpr int kWarpRows = kRowTiles * 16;
  static constexpr int kQueries = kPrefillWarps * kWarpRows;
  static constexpr int kParts = kTileQueries / kQueries;  // blocks for a tile of the plan
  static constexpr int kRowBytes = kHeadDim * 2 + 16;     // odd in units of 16: no bank conflicts
  static constexpr int kPacks = kHeadDim / 8;
  static constexpr size_t kQueryBytes = kQueries * kRowBytes;
  static constexpr size_t kTileBytes = kTileKeys * kRowBytes;
  static constexpr size_t kSharedBytes =
      kQueryBytes + 2 * kTileBytes + 2 * kTileKeys * sizeof(int64_t);
};

// What a block computes: queries [token, token + num_rows) for one head.
struct PrefillItem {
  int sequence, head, kv_head;
  int token, num_rows, position;  // position of the first query
  int oldest;                     // the first key that it sees

  __device__ int last_position() const { return position + num_rows - 1; }
};

template <typename T, int kHeadDim>
class PrefillBlock {
  using Shape = PrefillShape<kHeadDim>;
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr int kKeyTiles = kTileKeys / 8;
  static constexpr int kDimTiles = kHeadDim / 8;

 public:
  __device__ PrefillBlock(const Attention<T>& attention, char* shared)
      : a_(attention),
        score_(attention),
        queries_(shared),
        keys_(queries_ + Shape::kQueryBytes),
        values_(keys_ + Shape::kTileBytes),
        offsets_(reinterpret_cast<int64_t*>(values_ + Shape::kTileBytes)),
        warp_row_(threadIdx.x / 32 * Shape::kWarpRows),
        lane_(threadIdx.x % 32) {}

  __device__ void run(const PrefillItem& item) {
    const int first = item.oldest / kTileKeys, last = item.last_position() / kTileKeys;
    reset();
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
      const bool sees = sees_tile(item, tile);
      if (sees) score_keys();
      __syncthreads();  // the keys were used
      if (tile < last) copy_tile(item, keys_, a_.k_cache, tile + 1);
      device::commit_copies();
      if (sees) weigh(item, tile);
      device::wait_for_copies<1>();
      __syncthreads();  // the values are there
      if (sees) add_values();
    }
    store(item);
  }

 private:
  __device__ void reset() {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      best_[m][0] = best_[m][1] = -INFINITY;
      total_[m][0] = total_[m][1] = 0.0f;
#pragma unroll
      for (int n = 0; n < kDimTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums_[m][n][i] = 0.0f;
      }
    }
  }

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

  __device__ int first_position(const PrefillItem& item) const { return item.position + warp_row_; }
  __device__ int last_position(const PrefillItem& item) const {
    return min(first_position(item) + Shape::kWarpRows - 1, item.last_position());
  }

  // Whether a row of this warp sees a key of the tile; if not, the tile would change nothing.
  __device__ bool sees_tile(const PrefillItem& item, int tile) const {
    return warp_row_ < item.num_rows && tile * kTileKeys <= last_position(item) &&
           tile * kTileKeys + kTileKeys > a_.oldest_visible(first_position(item));
  }

  // scores[m][n]: rows (g, g, g + 8, g + 8) of row tile m, keys (2t, 2t + 1, 2t, 2t + 1) of key
  // tile n
  __device__ void score_keys() {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores_[m][n][i] = 0.0f;
      }
    }
    const char* query_row =
        queries_ + (warp_row_ + lane_ % 16) * Shape::kRowBytes + lane_ / 16 * 16;
    const char* key_row =
        keys_ + (lane_ % 8 + lane_ / 16 * 8) * Shape::kRowBytes + lane_ / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      uint32_t queries[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        device::load_matrices(queries[m], query_row + m * 16 * Shape::kRowBytes + k * 32);
      }
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        uint32_t keys[4];
        device::load_matrices(keys, key_row + n * 8 * Shape::kRowBytes + k * 32);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          device::product<T>(scores_[m][n], queries[m], keys[0], keys[1]);
          device::product<T>(scores_[m][n + 1], queries[m], keys[2], keys[3]);
        }
      }
    }
  }

  // Scores to weights of an online softmax; the sums so far are scaled to the new best score.
  __device__ void weigh(const PrefillItem& item, int tile) {
    const int first_key = tile * kTileKeys, row = first_position(item) + lane_ / 4;
    if (!score_.is_plain()) transform(item, first_key, row);
    if (first_key + kTileKeys - 1 > first_position(item) ||
        first_key < a_.oldest_visible(last_position(item))) {
      mask(first_key, row);
    }
    const float factor = score_.exponent_factor();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float next = best_[m][half];
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
          next = fmaxf(next, fmaxf(scores_[m][n][half * 2], scores_[m][n][half * 2 + 1]));
        }
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1));
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
        const float shift = next == -INFINITY ? 0.0f : next * factor;  // nothing seen so far
        const float correction = device::exp2_fast(best_[m][half] * factor - shift);
        best_[m][half] = next;
        float total = total_[m][half] * correction;
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
          for (int i = half * 2; i < half * 2 + 2; ++i) {
            scores_[m][n][i] = device::exp2_fast(scores_[m][n][i] * factor - shift);
            total += scores_[m][n][i];  // of the lane's keys; summed over lanes at the end
          }
        }
        total_[m][half] = total;
        if (__any_sync(0xffffffffu, correction != 1.0f)) {
#pragma unroll
          for (int n = 0; n < kDimTiles; ++n) {
            sums_[m][n][half * 2] *= correction;
            sums_[m][n][half * 2 + 1] *= correction;
          }
        }
      }
    }
  }

  __device__ void transform(const PrefillItem& item, int first_key, int row) {
    const float slope = a_.slope(item.head);
    for_scores([&](float& score, int m_row, int key) {
      score = score_(score, slope, row + m_row - (first_key + key));
    });
  }

  __device__ void mask(int first_key, int row) {
    for_scores([&](float& score, int m_row, int key) {
      const int position = row + m_row, at = first_key + key;
      if (at > position || at < a_.oldest_visible(position)) score = -INFINITY;
    });
  }

  // Calls body(score, row of it behind the lane's first, its key in the tile).
  template <typename Body>
  __device__ void for_scores(Body body) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          body(scores_[m][n][i], m * 16 + i / 2 * 8, n * 8 + lane_ % 4 * 2 + i % 2);
        }
      }
    }
  }

  // Two tiles of 8 scores, as a product left them, are the first operand of the next product.
  __device__ void add_values() {
    const char* value_row =
        values_ + (lane_ % 8 + lane_ / 8 % 2 * 8) * Shape::kRowBytes + lane_ / 16 * 16;
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; ++k) {
      uint32_t weights[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const float (&low)[4] = scores_[m][2 * k];
        const float (&high)[4] = scores_[m][2 * k + 1];
        weights[m][0] = device::pack<T>(low[0], low[1]);
        weights[m][1] = device::pack<T>(low[2], low[3]);
        weights[m][2] = device::pack<T>(high[0], high[1]);
        weights[m][3] = device::pack<T>(high[2], high[3]);
      }
#pragma unroll
      for (int n = 0; n < kDimTiles; n += 2) {
        uint32_t values[4];
        device::load_transposed(values, value_row + k * 16 * Shape::kRowBytes + n * 16);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          device::product<T>(sums_[m][n], weights[m], values[0], values[1]);
          device::product<T>(sums_[m][n + 1], weights[m], values[2], values[3]);
        }
      }
    }
  }

  // Through the warp's own rows of the queries, for whole 16-byte stores.
  __device__ void store(const PrefillItem& item) {
    if (warp_row_ >= item.num_rows) return;
    char* rows = queries_ + warp_row_ * Shape::kRowBytes;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float total = total_[m][half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        const float scale = 1.0f / total;
        char* row = rows + (m * 16 + half * 8 + lane_ / 4) * Shape::kRowBytes + lane_ % 4 * 4;
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
          *reinterpret_cast<uint32_t*>(row + n * 16) =
              device::pack<T>(sums_[m][n][half * 2] * scale, sums_[m][n][half * 2 + 1] * scale);
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = lane_; i < Shape::kWarpRows * Shape::kPacks; i += 32) {
      const int row = i / Shape::kPacks, pack = i % Shape::kPacks;
      if (warp_row_ + row < item.num_rows && pack * 8 < a_.head_dim) {
        *reinterpret_cast<uint4*>(a_.result(item.token + warp_row_ + row, item.head) + pack * 8) =
            *reinterpret_cast<const uint4*>(rows + row * Shape::kRowBytes + pack * 16);
      }
    }
  }

  const Attention<T>& a_;
  const Score score_;
  char* queries_;
  char* keys_;
  char* values_;
  int64_t* offsets_;
  const int warp_row_, lane_;
  float best_[kRowTiles][2], total_[kRowTiles][2];
  float scores_[kRowTiles][kKeyTiles][4];
  float sums_[kRowTiles][kDimTiles][4];
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
  device::launch_dependents();
  extern __shared__ __align__(16) char shared[];
  __shared__ int sequence;
  const int num_units = a.work[2 * a.num_sequences + 1] * PrefillShape<kHeadDim>::kParts;
  device::wait_for_predecessor();
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
