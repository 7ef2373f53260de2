// SPDX-License-Identifier: BSD-3-Clause
// Causal attention over the paged cache. One task is a tile of queries of one sequence with all
// query heads that share a key-value head: its rows. Keys come in groups of kLanes of one page; the
// group is transposed once, so that scores are a vector over keys, and enters an online softmax per
// row. (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135)
#include <cstdlib>

#include "core/parallel.h"
#include "cpu/launchers.h"
#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {
namespace {

constexpr int64_t kTileQueries = 16;
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kMaxVecs = kMaxHeadDim / kLanes;
constexpr int64_t kMaxRows = 128;  // queries of a tile times heads that share keys

struct Problem {
  Tensor out, q, k_cache, v_cache, block_tables;
  const int32_t* seq_lens;
  const int32_t* cu_seqlens_q;
  const float* alibi_slopes;
  float scale, soft_cap;
  int64_t window, head_dim, group, block_size;
};

// One task's running state. Rows beyond `rows` and lanes beyond the head are never read.
struct Tile {
  int64_t rows;
  int64_t first_head;
  float query[kMaxRows][kMaxHeadDim];
  int64_t position[kMaxRows];
  float slope[kMaxRows];
  float best[kMaxRows];
  float total[kMaxRows];
  vec sum[kMaxRows][kMaxVecs];
  float keys[kMaxHeadDim][kLanes];  // transposed group
  vec values[kLanes][kMaxVecs];
};

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

vec score(const Tile& tile, int64_t row, int64_t head_dim) {
  vec even{}, odd{};
  int64_t d = 0;
  for (; d + 1 < head_dim; d += 2) {
    even += tile.query[row][d] * load(tile.keys[d]);
    odd += tile.query[row][d + 1] * load(tile.keys[d + 1]);
  }
  if (d < head_dim) even += tile.query[row][d] * load(tile.keys[d]);
  return even + odd;
}

constexpr float kLowest = -3.0e38f;

// Keys in the future, outside the window or beyond the group get no weight.
vec biased(const Problem& p, const Tile& tile, int64_t row, vec scores, int64_t first_key,
           int64_t count) {
  for (int64_t j = 0; j < kLanes; ++j) {
    const int64_t distance = tile.position[row] - (first_key + j);
    const bool visible = j < count && distance >= 0 && (p.window == 0 || distance < p.window);
    float value = scores[j];
    if (p.soft_cap != 0.0f) value = std::tanh(value / p.soft_cap) * p.soft_cap;
    value -= tile.slope[row] * static_cast<float>(distance);
    scores[j] = visible ? value : kLowest;
  }
  return scores;
}

bool needs_bias(const Problem& p, const Tile& tile, int64_t row, int64_t first_key, int64_t count) {
  const int64_t position = tile.position[row];
  return count < kLanes || first_key + count - 1 > position || p.soft_cap != 0.0f ||
         p.alibi_slopes != nullptr || (p.window != 0 && position - first_key >= p.window);
}

void accumulate(Tile& tile, int64_t row, vec scores, int64_t num_vecs) {
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
void load_queries(const Problem& p, Tile& tile, int64_t sequence, int64_t kv_head, int64_t first,
                  int64_t count) {
  const int64_t start = p.cu_seqlens_q[sequence];
  const int64_t length = p.cu_seqlens_q[sequence + 1] - start;
  const int64_t first_position = p.seq_lens[sequence] - length + first;
  tile.rows = count * p.group;
  tile.first_head = kv_head * p.group;
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t head = tile.first_head + row % p.group, query = row / p.group;
    const T* source =
        p.q.as<T>() + (start + first + query) * p.q.strides[0] + head * p.q.strides[1];
    for_lanes(p.head_dim, [&](int64_t d, int64_t lanes) {
      store_lanes(tile.query[row] + d, load_lanes(source + d, lanes) * p.scale, lanes);
    });
    tile.position[row] = first_position + query;
    tile.slope[row] = p.alibi_slopes == nullptr ? 0.0f : p.alibi_slopes[head];
    tile.best[row] = kLowest;
    tile.total[row] = 0.0f;
    for (int64_t d = 0; d < kMaxVecs; ++d) tile.sum[row][d] = vec{};
  }
}

template <typename T>
void store_rows(const Problem& p, const Tile& tile, int64_t first_token) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* to = p.out.as<T>() + (first_token + row / p.group) * p.out.strides[0] +
            (tile.first_head + row % p.group) * p.out.strides[1];
    const float scale = 1.0f / tile.total[row];
    for_lanes(p.head_dim, [&](int64_t d, int64_t lanes) {
      store_lanes(to + d, tile.sum[row][d / kLanes] * scale, lanes);
    });
  }
}

template <typename T>
void attend(const Problem& p, Tile& tile, int64_t sequence, int64_t kv_head, int64_t first,
            int64_t count) {
  load_queries<T>(p, tile, sequence, kv_head, first, count);
  const int32_t* table = p.block_tables.as<int32_t>() + sequence * p.block_tables.strides[0];
  const int64_t num_vecs = (p.head_dim + kLanes - 1) / kLanes;
  const int64_t last_key = tile.position[tile.rows - 1];
  const int64_t oldest = p.window == 0 ? 0 : tile.position[0] - p.window + 1;
  const int64_t first_page = oldest > 0 ? oldest / p.block_size : 0;
  for (int64_t page = first_page; page * p.block_size <= last_key; ++page) {
    const T* keys =
        p.k_cache.as<T>() + table[page] * p.k_cache.strides[0] + kv_head * p.k_cache.strides[1];
    const T* values =
        p.v_cache.as<T>() + table[page] * p.v_cache.strides[0] + kv_head * p.v_cache.strides[1];
    for (int64_t offset = 0; offset < p.block_size; offset += kLanes) {
      const int64_t key = page * p.block_size + offset;
      if (key > last_key) break;
      int64_t keys_left = p.block_size - offset;
      if (keys_left > kLanes) keys_left = kLanes;
      if (keys_left > last_key - key + 1) keys_left = last_key - key + 1;
      load_group(tile, keys + offset * p.k_cache.strides[2], p.k_cache.strides[2],
                 values + offset * p.v_cache.strides[2], p.v_cache.strides[2], keys_left,
                 p.head_dim);
      for (int64_t row = 0; row < tile.rows; ++row) {
        vec scores = score(tile, row, p.head_dim);
        if (needs_bias(p, tile, row, key, keys_left)) {
          scores = biased(p, tile, row, scores, key, keys_left);
        }
        accumulate(tile, row, scores, num_vecs);
      }
    }
  }
  store_rows<T>(p, tile, p.cu_seqlens_q[sequence] + first);
}

Tile& thread_tile() {
  struct Holder {
    Tile* tile = static_cast<Tile*>(std::aligned_alloc(64, sizeof(Tile)));
    ~Holder() { std::free(tile); }
  };
  static thread_local Holder holder;
  return *holder.tile;
}

void check(const Tensor& out, const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
           const Tensor& block_tables, const Tensor& seq_lens, const Tensor& cu_seqlens_q,
           const std::optional<Tensor>& alibi_slopes) {
  const char* op = "paged_attention";
  check_float(op, "q", q);
  check_shape(op, "q", q, {-1, -1, -1});
  check_rows(op, "q", q);
  check_shape(op, "out", out, {q.shape[0], q.shape[1], q.shape[2]});
  check_dtype(op, "out", out, q.dtype);
  check_contiguous(op, "out", out);
  check_shape(op, "k_cache", k_cache, {-1, -1, -1, q.shape[2]});
  check_dtype(op, "k_cache", k_cache, q.dtype);
  check_rows(op, "k_cache", k_cache);
  check_shape(op, "v_cache", v_cache,
              {k_cache.shape[0], k_cache.shape[1], k_cache.shape[2], q.shape[2]});
  check_dtype(op, "v_cache", v_cache, q.dtype);
  check_rows(op, "v_cache", v_cache);
  check_shape(op, "seq_lens", seq_lens, {-1});
  check_dtype(op, "seq_lens", seq_lens, DType::kInt32);
  check_contiguous(op, "seq_lens", seq_lens);
  check_shape(op, "block_tables", block_tables, {seq_lens.shape[0], -1});
  check_dtype(op, "block_tables", block_tables, DType::kInt32);
  check_rows(op, "block_tables", block_tables);
  check_shape(op, "cu_seqlens_q", cu_seqlens_q, {seq_lens.shape[0] + 1});
  check_dtype(op, "cu_seqlens_q", cu_seqlens_q, DType::kInt32);
  check_contiguous(op, "cu_seqlens_q", cu_seqlens_q);
  if (alibi_slopes) {
    check_shape(op, "alibi_slopes", *alibi_slopes, {q.shape[1]});
    check_dtype(op, "alibi_slopes", *alibi_slopes, DType::kFloat32);
    check_contiguous(op, "alibi_slopes", *alibi_slopes);
  }
  check_that(op, "q", q.shape[2] <= kMaxHeadDim, "has heads of more than 256 dimensions");
  check_that(op, "q", q.shape[1] % k_cache.shape[1] == 0,
             "has a number of heads that is no multiple of the cache's");
  check_that(op, "q", q.shape[1] / k_cache.shape[1] <= kMaxRows,
             "has more than 128 heads for each head of the cache");
}

}  // namespace

void paged_attention(const Tensor& out, const Tensor& q, const Tensor& k_cache,
                     const Tensor& v_cache, const Tensor& block_tables, const Tensor& seq_lens,
                     const Tensor& cu_seqlens_q, const Tensor&, const Tensor&, int64_t max_seqlen_q,
                     int64_t, double scale, int64_t window, double soft_cap,
                     const std::optional<Tensor>& alibi_slopes) {
  check(out, q, k_cache, v_cache, block_tables, seq_lens, cu_seqlens_q, alibi_slopes);
  const Problem p{out,
                  q,
                  k_cache,
                  v_cache,
                  block_tables,
                  seq_lens.as<int32_t>(),
                  cu_seqlens_q.as<int32_t>(),
                  alibi_slopes ? alibi_slopes->as<float>() : nullptr,
                  static_cast<float>(scale),
                  static_cast<float>(soft_cap),
                  window,
                  q.shape[2],
                  q.shape[1] / k_cache.shape[1],
                  k_cache.shape[2]};
  int64_t queries = kMaxRows / p.group;
  if (queries > kTileQueries) queries = kTileQueries;
  const int64_t tiles = (max_seqlen_q + queries - 1) / queries;
  const int64_t sequences = seq_lens.shape[0], kv_heads = k_cache.shape[1];
  dispatch(q, [&](auto type) {
    using T = decltype(type);
    parallel_for(tiles * sequences * kv_heads, 1, [&](int64_t task, int64_t) {
      // The last tiles see the most keys: they come first, so that no thread ends with one alone.
      const int64_t tile = tiles - 1 - task / (sequences * kv_heads);
      const int64_t sequence = task / kv_heads % sequences;
      const int64_t length = p.cu_seqlens_q[sequence + 1] - p.cu_seqlens_q[sequence];
      const int64_t left = length - tile * queries;
      if (left > 0) {
        attend<T>(p, thread_tile(), sequence, task % kv_heads, tile * queries,
                  left < queries ? left : queries);
      }
    });
  });
}

}  // namespace ft::cpu::FT_ISA
