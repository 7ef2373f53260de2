// SPDX-License-Identifier: BSD-3-Clause
// Bidirectional attention of packed sequences. One task is a tile of queries of one head of one
// sequence, over all keys of the sequence.

#include "cpu/launchers.h"
#include "cpu/packed.h"

namespace ft::cpu::FT_ISA {
namespace {

struct Problem {
  Tensor out, q, k, v;
  RelativeBias relative_bias;
  float scale;
  int64_t head_dim;
};

template <typename T>
T* at(const Tensor& tensor, int64_t token, int64_t head) {
  return tensor.as<T>() + token * tensor.strides[0] + head * tensor.strides[1];
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
    const int64_t left = end - start - key;
    load_group(tile, at<T>(p.k, start + key, head), p.k.strides[0], at<T>(p.v, start + key, head),
               p.v.strides[0], left < kLanes ? left : kLanes, p.head_dim, kLanes * p.k.strides[0]);
    attend_group(tile, p.head_dim, [&](int64_t row, vec scores) {
      if (p.relative_bias.table != nullptr) {
        scores += p.relative_bias(head, key, tile.position[row]);
      }
      for (int64_t j = left; j < kLanes; ++j) scores[j] = kLowest;
      return scores;
    });
  }
  for (int64_t row = 0; row < count; ++row) {
    store_row(tile, row, at<T>(p.out, start + first + row, head), p.head_dim);
  }
}

}  // namespace

void encoder_attention(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v,
                       const Tensor& cu_seqlens, int64_t max_seqlen, double scale,
                       const std::optional<Tensor>& relative_bias) {
  check_encoder_attention(out, q, k, v, cu_seqlens, relative_bias);
  const int64_t columns = relative_bias ? relative_bias->shape[1] : 1;
  const Problem p{out,
                  q,
                  k,
                  v,
                  {relative_bias ? relative_bias->as<float>() : nullptr, columns, columns / 2},
                  static_cast<float>(scale),
                  q.shape[2]};
  dispatch(q, [&](auto type) {
    for_query_tiles(cu_seqlens, max_seqlen, q.shape[1],
                    [&](auto... tile) { attend<decltype(type)>(p, thread_tile(), tile...); });
  });
}

}  // namespace ft::cpu::FT_ISA
