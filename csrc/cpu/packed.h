// SPDX-License-Identifier: BSD-3-Clause
// The tasks that attention over packed sequences is divided into, whatever is added to its scores.
#pragma once

#include "core/parallel.h"
#include "cpu/attention.h"

namespace ft::cpu::FT_ISA {

// Calls body(head, start, end, first, count) for up to kMaxRows queries at a time of every
// head: those of the sequence [start, end) from its query `first` on. On any thread, in any order.
template <typename Body>
void for_query_tiles(const Tensor& cu_seqlens, int64_t max_seqlen, int64_t heads, Body body) {
  const int32_t* bounds = cu_seqlens.as<int32_t>();
  const int64_t sequences = cu_seqlens.shape[0] - 1;
  const int64_t tiles = (max_seqlen + kMaxRows - 1) / kMaxRows;
  parallel_for(tiles * sequences * heads, 1, [&](int64_t task, int64_t) {
    const int64_t head = task % heads, tile = task / heads % tiles;
    const int64_t sequence = task / heads / tiles;
    const int64_t start = bounds[sequence], end = bounds[sequence + 1];
    const int64_t first = tile * kMaxRows, left = end - start - first;
    if (left > 0) body(head, start, end, first, left < kMaxRows ? left : kMaxRows);
  });
}

}  // namespace ft::cpu::FT_ISA
