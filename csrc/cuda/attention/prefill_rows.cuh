// SPDX-License-Identifier: BSD-3-Clause
// What a warp of attention with several queries computes for its rows of queries: scores, an online
// softmax, sums of values, all in registers.
#pragma once

#include "cuda/attention/attention.cuh"
#include "cuda/attention/prefill_item.cuh"
#include "device/tensor_core.cuh"

namespace ft::cuda {

constexpr int kPrefillWarps = 4;
constexpr int kPrefillThreads = kPrefillWarps * 32;

// kRowTiles: tiles of 16 rows of a warp.
template <int kHeadDim, int kRowTiles>
struct PrefillShape {
  static constexpr int kTileKeys = kHeadDim <= 128 ? 64 : 32;  // 99 KB of shared memory suffice
  static constexpr int kWarpRows = kRowTiles * 16;
  static constexpr int kQueries = kPrefillWarps * kWarpRows;
  static constexpr int kRowBytes = kHeadDim * 2 + 16;  // odd in units of 16: no bank conflicts
  static constexpr int kPacks = kHeadDim / 8;
  static constexpr size_t kQueryBytes = kQueries * kRowBytes;
  static constexpr size_t kTileBytes = kTileKeys * kRowBytes;
  static constexpr size_t kSharedBytes =
      kQueryBytes + 2 * kTileBytes + 2 * kTileKeys * sizeof(int64_t);
};

// A row's result does not depend on kRowTiles: where the compiler could round once or twice, the
// code says which.
template <typename A, typename S, int kHeadDim, int kRowTiles>
class PrefillRows {
  using T = typename A::Element;
  using Shape = PrefillShape<kHeadDim, kRowTiles>;
  static constexpr int kTileKeys = Shape::kTileKeys;
  static constexpr int kKeyTiles = kTileKeys / 8;
  static constexpr int kDimTiles = kHeadDim / 8;

 public:
  __device__ explicit PrefillRows(const A& attention)
      : a_(attention),
        score_(attention),
        warp_row_(threadIdx.x / 32 * Shape::kWarpRows),
        lane_(threadIdx.x % 32) {}

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

  // Whether a row of this warp sees a key of the tile; if not, the tile would change nothing.
  __device__ bool sees_tile(const PrefillItem& item, int tile) const {
    return warp_row_ < item.num_rows &&
           tile * kTileKeys <= a_.newest_visible(last_position(item), item.num_keys) &&
           tile * kTileKeys + kTileKeys > a_.oldest_visible(first_position(item));
  }

  // scores[m][n]: rows (g, g, g + 8, g + 8) of row tile m, keys (2t, 2t + 1, 2t, 2t + 1) of key
  // tile n
  __device__ void score_keys(const char* queries, const char* keys) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores_[m][n][i] = 0.0f;
      }
    }
    const char* query_row = queries + (warp_row_ + lane_ % 16) * Shape::kRowBytes + lane_ / 16 * 16;
    const char* key_row =
        keys + (lane_ % 8 + lane_ / 16 * 8) * Shape::kRowBytes + lane_ / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      uint32_t rows[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        device::load_matrices(rows[m], query_row + m * 16 * Shape::kRowBytes + k * 32);
      }
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        uint32_t columns[4];
        device::load_matrices(columns, key_row + n * 8 * Shape::kRowBytes + k * 32);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          device::product<T>(scores_[m][n], rows[m], columns[0], columns[1]);
          device::product<T>(scores_[m][n + 1], rows[m], columns[2], columns[3]);
        }
      }
    }
  }

  // Scores to weights of an online softmax; the sums so far are scaled to the new best score.
  __device__ void weigh(const PrefillItem& item, int tile) {
    const int first_key = tile * kTileKeys, row = first_position(item) + lane_ / 4;
    if (!score_.is_plain()) transform(item, first_key, row);
    if (first_key + kTileKeys - 1 > a_.newest_visible(first_position(item), item.num_keys) ||
        first_key < a_.oldest_visible(last_position(item))) {
      mask(item, first_key, row);
    }
    const float factor = score_.exponent_factor();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float highest = -INFINITY;
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
          highest = fmaxf(highest, fmaxf(scores_[m][n][half * 2], scores_[m][n][half * 2 + 1]));
        }
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
        const float next = fmaxf(best_[m][half], __fmul_rn(highest, factor));
        const float shift = next == -INFINITY ? 0.0f : next;  // nothing seen so far
        const float correction = device::exp2_fast(best_[m][half] - shift);
        best_[m][half] = next;
        float total = __fmul_rn(total_[m][half], correction);
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
          for (int i = half * 2; i < half * 2 + 2; ++i) {
            scores_[m][n][i] = device::exp2_fast(__fmaf_rn(scores_[m][n][i], factor, -shift));
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

  // Two tiles of 8 scores, as a product left them, are the first operand of the next product.
  __device__ void add_values(const char* values) {
    const char* value_row =
        values + (lane_ % 8 + lane_ / 8 % 2 * 8) * Shape::kRowBytes + lane_ / 16 * 16;
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
        uint32_t columns[4];
        device::load_transposed(columns, value_row + k * 16 * Shape::kRowBytes + n * 16);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          device::product<T>(sums_[m][n], weights[m], columns[0], columns[1]);
          device::product<T>(sums_[m][n + 1], weights[m], columns[2], columns[3]);
        }
      }
    }
  }

  // Through the warp's own rows of `queries`, for whole 16-byte stores.
  __device__ void store(const PrefillItem& item, char* queries) {
    if (warp_row_ >= item.num_rows) return;
    char* rows = queries + warp_row_ * Shape::kRowBytes;
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

 private:
  __device__ int first_position(const PrefillItem& item) const { return item.position + warp_row_; }
  __device__ int last_position(const PrefillItem& item) const {
    return min(first_position(item) + Shape::kWarpRows, item.position + item.num_rows) - 1;
  }

  __device__ void transform(const PrefillItem& item, int first_key, int row) {
    const auto logit = logit_function(a_, score_, item.sequence, item.head);
    for_scores([&](float& score, int m_row, int key) {
      score = logit(score, row + m_row, first_key + key);
    });
  }

  __device__ void mask(const PrefillItem& item, int first_key, int row) {
    for_scores([&](float& score, int m_row, int key) {
      const int position = row + m_row, at = first_key + key;
      const bool is_visible =
          at <= a_.newest_visible(position, item.num_keys) && at >= a_.oldest_visible(position);
      if (!is_visible) score = -INFINITY;
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

  const A& a_;
  const S score_;
  const int warp_row_, lane_;
  float best_[kRowTiles][2], total_[kRowTiles][2];  // best: times the exponent's factor
  float scores_[kRowTiles][kKeyTiles][4];
  float sums_[kRowTiles][kDimTiles][4];
};

}  // namespace ft::cuda
