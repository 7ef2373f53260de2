// SPDX-License-Identifier: BSD-3-Clause
// What attention over packed sequences has in common, whatever is added to its scores: the checks
// of its arguments, and the tasks that it is divided into.
#pragma once

#include "core/parallel.h"
#include "cpu/attention.h"

namespace ft::cpu::FT_ISA {

constexpr int64_t kTileQueries = 64;

// q, k, v and out [tokens, heads, head size] of one type, cu_seqlens [sequences + 1] int32.
inline void check_packed(const char* op, const Tensor& out, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& cu_seqlens) {
  check_float(op, "q", q);
  check_shape(op, "q", q, {-1, -1, -1});
  check_rows(op, "q", q);
  check_that(op, "q", q.shape[2] <= kMaxHeadDim, "has heads of more than 256 dimensions");
  const auto check_heads = [&](const char* argument, const Tensor& tensor) {
    check_shape(op, argument, tensor, {q.shape[0], q.shape[1], q.shape[2]});
    check_dtype(op, argument, tensor, q.dtype);
    check_rows(op, argument, tensor);
  };
  check_heads("k", k);
  check_heads("v", v);
  check_heads("out", out);
  check_shape(op, "cu_seqlens", cu_seqlens, {-1});
  check_dtype(op, "cu_seqlens", cu_seqlens, DType::kInt32);
  check_contiguous(op, "cu_seqlens", cu_seqlens);
  check_that(op, "cu_seqlens", cu_seqlens.shape[0] > 0, "is empty");
}

// Calls body(head, start, end, first, count) for up to kTileQueries queries at a time of every
// head: those of the sequence [start, end) from its query `first` on. On any thread, in any order.
template <typename Body>
void for_query_tiles(const Tensor& cu_seqlens, int64_t max_seqlen, int64_t heads, Body body) {
  const int32_t* bounds = cu_seqlens.as<int32_t>();
  const int64_t sequences = cu_seqlens.shape[0] - 1;
  const int64_t tiles = (max_seqlen + kTileQueries - 1) / kTileQueries;
  parallel_for(tiles * sequences * heads, 1, [&](int64_t task, int64_t) {
    const int64_t head = task % heads, tile = task / heads % tiles;
    const int64_t sequence = task / heads / tiles;
    const int64_t start = bounds[sequence], end = bounds[sequence + 1];
    const int64_t first = tile * kTileQueries, left = end - start - first;
    if (left > 0) body(head, start, end, first, left < kTileQueries ? left : kTileQueries);
  });
}

}  // namespace ft::cpu::FT_ISA
