// SPDX-License-Identifier: BSD-3-Clause
// For how many ranks an exchange is compiled.
#pragma once

#include <type_traits>

#include "device/arena.cuh"

namespace ft::cuda {

// Calls body with a std::integral_constant that is not less than `size`.
template <typename Body>
void dispatch_ranks(int size, Body body) {
  if (size <= 2) return body(std::integral_constant<int, 2>{});
  if (size <= 4) return body(std::integral_constant<int, 4>{});
  body(std::integral_constant<int, device::kMaxRanks>{});
}

}  // namespace ft::cuda
