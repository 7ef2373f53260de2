// SPDX-License-Identifier: BSD-3-Clause
// What the attention kernels share: a tile of queries, and its online softmax over groups of kLanes
// keys. A group is transposed once, so that scores are a vector over keys, and multiplied with
// several queries at a time, whose results do not depend on how many they are. (Milakov and
// Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135)
#pragma once

#include <cstdlib>

#include "core/attention_checks.h"
#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {

constexpr int64_t kMaxVecs = kMaxHeadDim / kLanes;
constexpr int64_t kMaxRows = 128;
constexpr int kRowsAtOnce = kLanes == 16 ? 8 : 4;  // whose sums fit into registers
constexpr float kLowest = -3.0e38f;                // the score of a key that is not seen

// One task's running state. Rows beyond `rows` and lanes beyond the head are never read.
struct Tile {
  int64_t rows;
  float query[kMaxRows][kMaxHeadDim];  // times the scale of the scores
  int64_t position[kMaxRows];
  int64_t head[kMaxRows];
  float best[kMaxRows];
  vec total[kMaxRows];  // by lanes
  vec sum[kMaxRows][kMaxVecs];
  vec keys[kMaxHeadDim];  // transposed group
  vec values[kLanes][kMaxVecs];
};

inline Tile& thread_tile() {
  struct Holder {
    Tile* tile = static_cast<Tile*>(std::aligned_alloc(64, sizeof(Tile)));
    ~Holder() { std::free(tile); }
  };
  static thread_local Holder holder;
  return *holder.tile;
}

// A bias by the distance of key and query: column `reach` of a head is distance 0, and the first
// and the last one hold for all that lies beyond them.
struct RelativeBias {
  const float* table;  // [heads, columns], or null
  int64_t columns, reach;

  vec operator()(int64_t head, int64_t first_key, int64_t position) const {
    const float* row = table + head * columns;
    const int64_t first = first_key - position + reach;
    if (first >= 0 && first + kLanes <= columns) return load(row + first);
    vec bias{};
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t column = first + j < 0 ? 0 : first + j;
      bias[j] = row[column < columns ? column : columns - 1];
    }
    return bias;
  }
};

template <typename T>
void start_row(Tile& tile, int64_t row, const T* query, int64_t head_dim, float scale, int64_t head,
               int64_t position) {
  for_lanes(head_dim, [&](int64_t d, int64_t lanes) {
    store_lanes(tile.query[row] + d, load_lanes(query + d, lanes) * scale, lanes);
  });
  tile.head[row] = head;
  tile.position[row] = position;
  tile.best[row] = kLowest;
  tile.total[row] = vec{};
  for (int64_t d = 0; d < kMaxVecs; ++d) tile.sum[row][d] = vec{};
}

// `ahead`: elements to the keys and values that come next, which are brought meanwhile.
template <typename T>
void load_group(Tile& tile, const T* keys, int64_t key_stride, const T* values,
                int64_t value_stride, int64_t count, int64_t head_dim, int64_t ahead) {
  for_lanes(head_dim, [&](int64_t d, int64_t lanes) {
    vec block[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      __builtin_prefetch(keys + j * key_stride + d + ahead);
      __builtin_prefetch(values + j * value_stride + d + ahead);
      block[j] = j < count ? load_lanes(keys + j * key_stride + d, lanes) : vec{};
      tile.values[j][d / kLanes] =
          j < count ? load_lanes(values + j * value_stride + d, lanes) : vec{};
    }
    transpose(block);
    for (int64_t i = 0; i < lanes; ++i) tile.keys[d + i] = block[i];
  });
}

template <int kRows>
inline void score(vec (&scores)[kRows], const Tile& tile, int64_t row, int64_t head_dim) {
  vec even[kRows] = {}, odd[kRows] = {};
  int64_t d = 0;
  for (; d + 1 < head_dim; d += 2) {
    for (int i = 0; i < kRows; ++i) even[i] += tile.query[row + i][d] * tile.keys[d];
    for (int i = 0; i < kRows; ++i) odd[i] += tile.query[row + i][d + 1] * tile.keys[d + 1];
  }
  if (d < head_dim) {
    for (int i = 0; i < kRows; ++i) even[i] += tile.query[row + i][d] * tile.keys[d];
  }
  for (int i = 0; i < kRows; ++i) scores[i] = even[i] + odd[i];
}

// Adds kVecs vectors of the group's values to the sums of rows. No sum is of two products, one of
// which compilers would round, and not always the same one.
template <int kRows, int kVecs>
inline void add_values(Tile& tile, int64_t row, int64_t first,
                       const float (&weights)[kRows][kLanes], vec corrections) {
  vec sums[kRows][kVecs] = {};
  for (int j = 0; j < kLanes; ++j) {
    for (int i = 0; i < kRows; ++i) {
      for (int d = 0; d < kVecs; ++d) sums[i][d] += weights[i][j] * tile.values[j][first + d];
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int d = 0; d < kVecs; ++d) {
      vec& total = tile.sum[row + i][first + d];
      total = total * corrections[i] + sums[i][d];
    }
  }
}

// A row that has not seen any key yet keeps its state: it weighs this group's with zeros.
template <int kRows>
inline void accumulate(Tile& tile, int64_t row, const vec (&scores)[kRows], int64_t num_vecs) {
  alignas(64) float weights[kRows][kLanes];
  vec changes{};
  for (int i = 0; i < kRows; ++i) {
    const float largest_score = largest(scores[i]), before = tile.best[row + i];
    const float best = largest_score > before ? largest_score : before;
    changes[i] = before - best;
    tile.best[row + i] = best;
  }
  const vec corrections = exp(changes);
  for (int i = 0; i < kRows; ++i) {
    const vec seen = exp(scores[i] - tile.best[row + i]);
    const vec weight = scores[i] == kLowest ? vec{} : seen;
    tile.total[row + i] = tile.total[row + i] * corrections[i] + weight;
    store(weights[i], weight);
  }
  int64_t d = 0;
  for (; d + 1 < num_vecs; d += 2) add_values<kRows, 2>(tile, row, d, weights, corrections);
  if (d < num_vecs) add_values<kRows, 1>(tile, row, d, weights, corrections);
}

// The loaded group, by rows [row, tile.rows). finish(row, scores): the scores with what is added to
// them, kLowest of keys that the row does not see.
template <int kRows = kRowsAtOnce, typename Finish>
void attend_group(Tile& tile, int64_t head_dim, Finish finish, int64_t row = 0) {
  const int64_t num_vecs = (head_dim + kLanes - 1) / kLanes;
  for (; row + kRows <= tile.rows; row += kRows) {
    vec scores[kRows];
    score<kRows>(scores, tile, row, head_dim);
    for (int i = 0; i < kRows; ++i) scores[i] = finish(row + i, scores[i]);
    accumulate<kRows>(tile, row, scores, num_vecs);
  }
  if constexpr (kRows > 1) attend_group<kRows / 2>(tile, head_dim, finish, row);
}

template <typename T>
void store_row(const Tile& tile, int64_t row, T* to, int64_t head_dim) {
  const float scale = 1.0f / sum(tile.total[row]);
  for_lanes(head_dim, [&](int64_t d, int64_t lanes) {
    store_lanes(to + d, tile.sum[row][d / kLanes] * scale, lanes);
  });
}

}  // namespace ft::cpu::FT_ISA
