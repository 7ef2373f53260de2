// SPDX-License-Identifier: BSD-3-Clause
// How many threads hold a row for its norm (device/row_norm.cuh), and how many packs each.
#pragma once

#include <type_traits>

#include "cuda/packs.h"

namespace ft::cuda {

constexpr int kMaxRowSize = 16384;

// The most threads of a row, in a kernel whose threads hold `packs` packs of `lanes` elements.
constexpr int max_row_threads(int lanes, int packs) {
  return packs <= 2 ? 512 : kMaxRowSize / (lanes * packs);
}

// Calls body(packs, threads) for rows of `size` elements; `packs` is a std::integral_constant. A
// pack or two for each thread: the row's way through the block is then short, which is all that
// counts when there are few rows, and many rows keep enough loads in flight by their number.
template <int kLanes, typename Body>
void dispatch_row(int64_t size, Body body) {
  const auto call = [&](auto packs) {
    body(packs, 32 * divide_up(divide_up(size, kLanes), 32 * packs()));
  };
  if constexpr (kLanes == 1) {
    call(std::integral_constant<int, 16>{});
  } else if (size <= 512 * kLanes) {
    call(std::integral_constant<int, 1>{});
  } else if (size <= 1024 * kLanes) {
    call(std::integral_constant<int, 2>{});
  } else {
    call(std::integral_constant<int, 4>{});
  }
}

}  // namespace ft::cuda
