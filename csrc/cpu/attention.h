// SPDX-License-Identifier: BSD-3-Clause
// What the attention kernels share: a tile of queries, and its online softmax over groups of kLanes
// keys. A group is transposed once, so that scores are a vector over keys. (Milakov and Gimelshein,
// arXiv 1805.02867; Dao et al., arXiv 2205.14135)
#pragma once

#include <cstdlib>

#include "core/attention_checks.h"
#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {

constexpr int64_t kMaxVecs = kMaxHeadDim / kLanes;
constexpr int64_t kMaxRows = 128;
constexpr float kLowest = -3.0e38f;  // the score of a key that is not seen

// One task's running state. Rows beyond `rows` and lanes beyond the head are never read.
struct Tile {
  int64_t rows;
  float query[kMaxRows][kMaxHeadDim];  // times the scale of the scores
  int64_t position[kMaxRows];
  int64_t head[kMaxRows];
  float best[kMaxRows];
  float total[kMaxRows];
  vec sum[kMaxRows][kMaxVecs];
  float keys[kMaxHeadDim][kLanes];  // transposed group
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
  tile.total[row] = 0.0f;
  for (int64_t d = 0; d < kMaxVecs; ++d) tile.sum[row][d] = vec{};
}

template <typename T>
void load_group(Tile& tile, const T* keys, int64_t key_stride, const T* values,
                int64_t value_stride, int64_t count, int64_t head_dim) {
  for (int64_t j = 0; j < kLanes; ++j) {
    for_lanes(head_dim, [&](int64_t d, int64_t lanes) {
      const vec k = j < count ? load_lanes(keys + j * key_stride + d, lanes) : vec{};
      for (int64_t i = 0; i < lanes; ++i) tile.keys[d + i][j] = k[i];
      tile.values[j][d / kLanes] =
          j < count ? load_lanes(values + j * value_stride + d, lanes) : vec{};
    });
  }
}

inline vec score(const Tile& tile, int64_t row, int64_t head_dim) {
  vec even{}, odd{};
  int64_t d = 0;
  for (; d + 1 < head_dim; d += 2) {
    even += tile.query[row][d] * load(tile.keys[d]);
    odd += tile.query[row][d + 1] * load(tile.keys[d + 1]);
  }
  if (d < head_dim) even += tile.query[row][d] * load(tile.keys[d]);
  return even + odd;
}

inline void accumulate(Tile& tile, int64_t row, vec scores, int64_t num_vecs) {
  float best = tile.best[row];
  for (int j = 0; j < kLanes; ++j) best = scores[j] > best ? scores[j] : best;
  if (best == kLowest) return;  // nothing visible so far
  const float correction = exp(broadcast(tile.best[row] - best))[0];
  vec weights = exp(scores - best);
  for (int j = 0; j < kLanes; ++j) weights[j] = scores[j] == kLowest ? 0.0f : weights[j];
  tile.best[row] = best;
  tile.total[row] = tile.total[row] * correction + sum(weights);
  for (int64_t d = 0; d < num_vecs; ++d) {
    vec total = tile.sum[row][d] * correction;
    for (int j = 0; j < kLanes; ++j) total += weights[j] * tile.values[j][d];
    tile.sum[row][d] = total;
  }
}

template <typename T>
void store_row(const Tile& tile, int64_t row, T* to, int64_t head_dim) {
  const float scale = 1.0f / tile.total[row];
  for_lanes(head_dim, [&](int64_t d, int64_t lanes) {
    store_lanes(to + d, tile.sum[row][d / kLanes] * scale, lanes);
  });
}

}  // namespace ft::cpu::FT_ISA
