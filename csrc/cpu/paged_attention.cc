// SPDX-License-Identifier: BSD-3-Clause
// Causal attention over the paged cache. One task is a tile of queries of one sequence with all
// query heads that share a key-value head: its rows. Of a sequence with a single query, where few
// heads share keys, it is some heads. Groups of keys are parts of one page; while one is computed
// the next is brought, since pages lie anywhere.
#include "cpu/attention.h"

#include <algorithm>

#include "core/parallel.h"
#include "cpu/launchers.h"
#include "cpu/single_row.h"

namespace ft::cpu::FT_ISA {
namespace {

constexpr int64_t kSingleGroup = 2;  // heads that share keys, at most, for queries one by one
constexpr int64_t kSingleRows = 16;  // of a task, at most: a head each

struct Problem {
  Tensor out, q, k_cache, v_cache, block_tables;
  const int32_t* seq_lens;
  const int32_t* cu_seqlens_q;
  const float* alibi_slopes;
  RelativeBias relative_bias;
  float scale, soft_cap;
  int64_t window, head_dim, group, block_size;
};

// Keys in the future, outside the window or beyond the group are not seen.
bool needs_mask(const Problem& p, int64_t position, int64_t first_key, int64_t count) {
  return count < kLanes || first_key + count - 1 > position ||
         (p.window != 0 && position - first_key >= p.window);
}

vec biased(const Problem& p, int64_t position, int64_t head, vec scores, int64_t first_key,
           int64_t count) {
  if (p.soft_cap != 0.0f) {
    for (int64_t j = 0; j < kLanes; ++j) {
      scores[j] = std::tanh(scores[j] / p.soft_cap) * p.soft_cap;
    }
  }
  if (p.alibi_slopes != nullptr) {
    for (int64_t j = 0; j < kLanes; ++j) {
      scores[j] -= p.alibi_slopes[head] * static_cast<float>(position - (first_key + j));
    }
  }
  if (p.relative_bias.table != nullptr) scores += p.relative_bias(head, first_key, position);
  if (!needs_mask(p, position, first_key, count)) return scores;
  for (int64_t j = 0; j < kLanes; ++j) {
    const int64_t distance = position - (first_key + j);
    const bool visible = j < count && distance >= 0 && (p.window == 0 || distance < p.window);
    if (!visible) scores[j] = kLowest;
  }
  return scores;
}

template <typename T>
void load_queries(const Problem& p, Tile& tile, int64_t sequence, int64_t kv_head, int64_t first,
                  int64_t count) {
  const int64_t start = p.cu_seqlens_q[sequence];
  const int64_t length = p.cu_seqlens_q[sequence + 1] - start;
  const int64_t first_position = p.seq_lens[sequence] - length + first;
  tile.rows = count * p.group;
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t head = kv_head * p.group + row % p.group, query = row / p.group;
    const T* source =
        p.q.as<T>() + (start + first + query) * p.q.strides[0] + head * p.q.strides[1];
    start_row(tile, row, source, p.head_dim, p.scale, head, first_position + query);
  }
}

template <typename T>
void store_rows(const Problem& p, const Tile& tile, int64_t first_token) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* to = p.out.as<T>() + (first_token + row / p.group) * p.out.strides[0] +
            tile.head[row] * p.out.strides[1];
    store_row(tile, row, to, p.head_dim);
  }
}

// Neighbouring keys of a page.
struct Group {
  int64_t page, offset;  // in the cache
  int64_t key, count;    // in the sequence

  // Of one head; elements.
  int64_t at(const Tensor& cache, int64_t kv_head) const {
    return page * cache.strides[0] + kv_head * cache.strides[1] + offset * cache.strides[2];
  }
};

// The group that starts with key `key`, of those up to `newest`.
Group group_at(const Problem& p, const int32_t* table, int64_t key, int64_t newest) {
  const int64_t offset = key % p.block_size;
  const int64_t count =
      std::min(std::min<int64_t>(kLanes, p.block_size - offset), newest - key + 1);
  return {table[key / p.block_size], offset, key, count};
}

// Calls body(group, the next one) for all groups of keys in [oldest, newest]; the first one may
// begin before. The last one is its own next one.
template <typename Body>
void for_groups(const Problem& p, int64_t sequence, int64_t oldest, int64_t newest, Body body) {
  const int32_t* table = p.block_tables.as<int32_t>() + sequence * p.block_tables.strides[0];
  const int64_t first = oldest > 0 ? oldest / p.block_size * p.block_size : 0;
  for (Group group = group_at(p, table, first, newest);;) {
    const int64_t key = group.key + group.count;
    const Group next = key <= newest ? group_at(p, table, key, newest) : group;
    body(group, next);
    if (key > newest) return;
    group = next;
  }
}

template <typename T>
void attend(const Problem& p, Tile& tile, int64_t sequence, int64_t kv_head, int64_t first,
            int64_t count) {
  load_queries<T>(p, tile, sequence, kv_head, first, count);
  const int64_t last_key = tile.position[tile.rows - 1];
  const int64_t oldest = p.window == 0 ? 0 : tile.position[0] - p.window + 1;
  for_groups(p, sequence, oldest, last_key, [&](const Group& group, const Group& next) {
    const int64_t at = group.at(p.k_cache, kv_head), value_at = group.at(p.v_cache, kv_head);
    load_group(tile, p.k_cache.as<T>() + at, p.k_cache.strides[2], p.v_cache.as<T>() + value_at,
               p.v_cache.strides[2], group.count, p.head_dim, next.at(p.k_cache, kv_head) - at);
    const int64_t older = group.key - tile.position[0];  // queries that see none of these keys
    const auto finish = [&](int64_t row, vec scores) {
      return biased(p, tile.position[row], tile.head[row], scores, group.key, group.count);
    };
    attend_group(tile, p.head_dim, finish, older > 0 ? older * p.group : 0);
  });
  store_rows<T>(p, tile, p.cu_seqlens_q[sequence] + first);
}

// The only query of a sequence, its heads [first, first + count), of which few share keys: to
// transpose keys would take longer than all that is done with them. All heads of a page are taken
// together, since they lie side by side.
template <typename T>
void attend_single(const Problem& p, int64_t sequence, int64_t first, int64_t count) {
  const int64_t token = p.cu_seqlens_q[sequence], position = p.seq_lens[sequence] - 1;
  const int64_t oldest = p.window == 0 ? 0 : position - p.window + 1;
  static thread_local SingleRow rows[kSingleRows];
  for (int64_t i = 0; i < count; ++i) {
    rows[i].start(p.q.as<T>() + token * p.q.strides[0] + (first + i) * p.q.strides[1], p.head_dim,
                  p.scale);
  }
  for_groups(p, sequence, oldest, position, [&](const Group& group, const Group& next) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t head = first + i, kv_head = head / p.group;
      const Group& following = i + 1 < count ? group : next;
      const int64_t next_head = (i + 1 < count ? head + 1 : first) / p.group;
      const int64_t at = group.at(p.k_cache, kv_head), value_at = group.at(p.v_cache, kv_head);
      const int64_t ahead = following.at(p.k_cache, next_head) - at;
      const vec scores =
          rows[i].scores(p.k_cache.as<T>() + at, p.k_cache.strides[2], group.count, ahead);
      rows[i].add(biased(p, position, head, scores, group.key, group.count),
                  p.v_cache.as<T>() + value_at, p.v_cache.strides[2], group.count, ahead);
    }
  });
  for (int64_t i = 0; i < count; ++i) {
    rows[i].write(p.out.as<T>() + token * p.out.strides[0] + (first + i) * p.out.strides[1]);
  }
}

bool is_single(const Problem& p, int64_t sequence) {
  return p.group <= kSingleGroup && p.cu_seqlens_q[sequence + 1] - p.cu_seqlens_q[sequence] == 1;
}

// Sequences with one query.
template <typename T>
void attend_singles(const Problem& p, int64_t sequences) {
  const int64_t heads = p.q.shape[1], grain = balanced_grain(sequences * heads, 1);
  const int64_t count = std::min(std::min(grain, heads), kSingleRows);
  const int64_t parts = (heads + count - 1) / count;
  parallel_for(sequences * parts, 1, [&](int64_t task, int64_t) {
    const int64_t sequence = task / parts, first = task % parts * count;
    if (is_single(p, sequence)) {
      attend_single<T>(p, sequence, first, std::min(count, heads - first));
    }
  });
}

// All others.
template <typename T>
void attend_tiles(const Problem& p, int64_t sequences, int64_t max_seqlen_q) {
  if (max_seqlen_q == 1 && p.group <= kSingleGroup) return;
  const int64_t queries = kMaxRows / p.group, kv_heads = p.k_cache.shape[1];
  const int64_t tiles = (max_seqlen_q + queries - 1) / queries;
  parallel_for(tiles * sequences * kv_heads, 1, [&](int64_t task, int64_t) {
    // The last tiles see the most keys: they come first, so that no thread ends with one alone.
    const int64_t tile = tiles - 1 - task / (sequences * kv_heads);
    const int64_t sequence = task / kv_heads % sequences;
    const int64_t length = p.cu_seqlens_q[sequence + 1] - p.cu_seqlens_q[sequence];
    const int64_t left = length - tile * queries;
    if (left > 0 && !is_single(p, sequence)) {
      attend<T>(p, thread_tile(), sequence, task % kv_heads, tile * queries,
                left < queries ? left : queries);
    }
  });
}

void check(const Tensor& out, const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
           const Tensor& block_tables, const Tensor& seq_lens, const Tensor& cu_seqlens_q,
           const std::optional<Tensor>& alibi_slopes, const std::optional<Tensor>& relative_bias) {
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
  check_relative_bias(op, relative_bias, q.shape[1]);
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
                     const std::optional<Tensor>& alibi_slopes,
                     const std::optional<Tensor>& relative_bias) {
  check(out, q, k_cache, v_cache, block_tables, seq_lens, cu_seqlens_q, alibi_slopes,
        relative_bias);
  check_that("paged_attention", "relative_bias", !relative_bias || !alibi_slopes,
             "is given beside alibi_slopes");
  const int64_t columns = relative_bias ? relative_bias->shape[1] : 1;
  const Problem p{out,
                  q,
                  k_cache,
                  v_cache,
                  block_tables,
                  seq_lens.as<int32_t>(),
                  cu_seqlens_q.as<int32_t>(),
                  alibi_slopes ? alibi_slopes->as<float>() : nullptr,
                  {relative_bias ? relative_bias->as<float>() : nullptr, columns, columns - 1},
                  static_cast<float>(scale),
                  static_cast<float>(soft_cap),
                  window,
                  q.shape[2],
                  q.shape[1] / k_cache.shape[1],
                  k_cache.shape[2]};
  dispatch(q, [&](auto type) {
    using T = decltype(type);
    if (p.group <= kSingleGroup) attend_singles<T>(p, seq_lens.shape[0]);
    attend_tiles<T>(p, seq_lens.shape[0], max_seqlen_q);
  });
}

}  // namespace ft::cpu::FT_ISA
