// SPDX-License-Identifier: BSD-3-Clause
// What a kernel sees of a tensor: pointer, sizes, strides, type. No framework, no Python.
#pragma once

#include <cstdint>

namespace ft {

enum class DType { kFloat32, kBFloat16, kFloat16, kInt32, kInt64, kInt8, kUInt8 };

inline constexpr int kMaxDims = 6;

struct Tensor {
  void* data;
  int ndim;
  int64_t shape[kMaxDims];
  int64_t strides[kMaxDims];  // in elements
  DType dtype;
  bool is_cuda;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace ft
