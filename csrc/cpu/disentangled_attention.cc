// SPDX-License-Identifier: BSD-3-Clause
// Bidirectional attention of packed sequences whose scores have parts for relative positions. One
// task is a tile of queries of one head of one sequence, over all keys of the sequence.
#include "cpu/launchers.h"
#include "cpu/packed.h"

namespace ft::cpu::FT_ISA {
namespace {

struct Problem {
  Tensor out, q, k, v;
  std::optional<Tensor> content_to_position, position_to_content;
  const int32_t* buckets;  // of distance 0
  float scale;
  int64_t head_dim;
};

template <typename T>
T* at(const Tensor& tensor, int64_t token, int64_t head) {
  return tensor.as<T>() + token * tensor.strides[0] + head * tensor.strides[1];
}

float value(float x) { return x; }
float value(bf16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
float value(fp16 x) { return static_cast<float>(x); }

// What positions add to the scores of the query at token `start` + `position` and `count` keys from
// `key` on.
template <typename T>
vec position_scores(const Problem& p, int64_t head, int64_t start, int64_t position, int64_t key,
                    int64_t count) {
  vec scores{};
  const int32_t* bucket = p.buckets + position - key;  // of key `key`; those behind it lie before
  if (p.content_to_position) {
    const T* row = at<T>(*p.content_to_position, head, start + position);
    for (int64_t j = 0; j < count; ++j) scores[j] += value(row[bucket[-j]]);
  }
  if (p.position_to_content) {
    const T* row = at<T>(*p.position_to_content, head, start + key);
    const int64_t stride = p.position_to_content->strides[1];
    for (int64_t j = 0; j < count; ++j) scores[j] += value(row[j * stride + bucket[-j]]);
  }
  return scores * p.scale;
}

// Queries [first, first + count) of the sequence of tokens [start, end).
template <typename T>
void attend(const Problem& p, Tile& tile, int64_t head, int64_t start, int64_t end, int64_t first,
            int64_t count) {
  tile.rows = count;
  for (int64_t row = 0; row < count; ++row) {
    const int64_t position = first + row;
    start_row(tile, row, at<T>(p.q, start + position, head), p.head_dim, p.scale, head, position);
  }
  for (int64_t key = 0; key < end - start; key += kLanes) {
    const int64_t left = end - start - key, keys = left < kLanes ? left : kLanes;
    load_group(tile, at<T>(p.k, start + key, head), p.k.strides[0], at<T>(p.v, start + key, head),
               p.v.strides[0], keys, p.head_dim, kLanes * p.k.strides[0]);
    attend_group(tile, p.head_dim, [&](int64_t row, vec scores) {
      scores += position_scores<T>(p, head, start, tile.position[row], key, keys);
      for (int64_t j = keys; j < kLanes; ++j) scores[j] = kLowest;
      return scores;
    });
  }
  for (int64_t row = 0; row < count; ++row) {
    store_row(tile, row, at<T>(p.out, start + first + row, head), p.head_dim);
  }
}

}  // namespace

void disentangled_attention(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v,
                            const std::optional<Tensor>& content_to_position,
                            const std::optional<Tensor>& position_to_content, const Tensor& buckets,
                            const Tensor& cu_seqlens, int64_t max_seqlen, double scale) {
  check_disentangled_attention(out, q, k, v, content_to_position, position_to_content, buckets,
                               cu_seqlens, max_seqlen);
  const Problem p{out,
                  q,
                  k,
                  v,
                  content_to_position,
                  position_to_content,
                  buckets.as<int32_t>() + max_seqlen - 1,
                  static_cast<float>(scale),
                  q.shape[2]};
  dispatch(q, [&](auto type) {
    for_query_tiles(cu_seqlens, max_seqlen, q.shape[1],
                    [&](auto... tile) { attend<decltype(type)>(p, thread_tile(), tile...); });
  });
}

}  // namespace ft::cpu::FT_ISA
