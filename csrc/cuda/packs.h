// SPDX-License-Identifier: BSD-3-Clause
// How wide a kernel may read: packs of 16 bytes where every row allows them, single elements where
// one does not.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "cuda/launch.h"

namespace ft::cuda {

// Whether every row consists of whole packs of `lanes` elements of T, each at a multiple of its size.
template <typename T>
bool has_packs(const Tensor& tensor, int64_t lanes) {
  const int64_t bytes = std::min<int64_t>(lanes * sizeof(T), 16);
  bool fits = reinterpret_cast<uintptr_t>(tensor.data) % bytes == 0 &&
              tensor.shape[tensor.ndim - 1] % lanes == 0;
  for (int i = 0; i + 1 < tensor.ndim; ++i) {
    fits = fits && (tensor.shape[i] <= 1 || tensor.strides[i] % lanes == 0);
  }
  return fits;
}

// Calls body(T{}, lanes) for the storage type of the first of `tensors`, all of which have it; `lanes`
// is a std::integral_constant, the elements of a pack that all of their rows allow.
template <typename Body>
void dispatch_packs(std::initializer_list<const Tensor*> tensors, Body body) {
  dispatch(**tensors.begin(), [&](auto type) {
    using T = decltype(type);
    constexpr int kLanes = 16 / sizeof(T);
    const bool fits = std::all_of(tensors.begin(), tensors.end(), [](const Tensor* tensor) {
      return has_packs<T>(*tensor, kLanes);
    });
    fits ? body(type, std::integral_constant<int, kLanes>{})
         : body(type, std::integral_constant<int, 1>{});
  });
}

inline unsigned divide_up(int64_t count, int64_t by) {
  return static_cast<unsigned>((count + by - 1) / by);
}

}  // namespace ft::cuda
