// SPDX-License-Identifier: BSD-3-Clause
// Keys and values on their way into the paged cache: the views that kernels take, and their checks.
#pragma once

#include "cuda/launch.h"

namespace ft::cuda {

// [T, heads, D]; often a part of a fused product.
template <typename T>
struct Heads {
  T* data;
  int64_t token_stride, head_stride;

  explicit Heads(const Tensor& tensor)
      : data(tensor.as<T>()), token_stride(tensor.strides[0]), head_stride(tensor.strides[1]) {}
  __device__ T* at(int64_t token, int head) const {
    return data + token * token_stride + head * head_stride;
  }
};

// [num_blocks, K, block_size, D]
template <typename T>
struct PagedCache {
  T* data;
  int64_t block_stride, head_stride, offset_stride;
  int block_size;

  explicit PagedCache(const Tensor& tensor)
      : data(tensor.as<T>()),
        block_stride(tensor.strides[0]),
        head_stride(tensor.strides[1]),
        offset_stride(tensor.strides[2]),
        block_size(static_cast<int>(tensor.shape[2])) {}
  __device__ T* at(int slot, int head) const {
    return data + slot / block_size * block_stride + head * head_stride +
           slot % block_size * offset_stride;
  }
};

// k, v: [T, K, D]; k_cache, v_cache: [num_blocks, K, block_size, D]; slot_mapping: [T] int32.
void check_cache_write(const char* op, const Tensor& k, const Tensor& v, const Tensor& k_cache,
                       const Tensor& v_cache, const Tensor& slot_mapping);

// heads: [T, any, D] like `k`.
void check_heads(const char* op, const char* argument, const Tensor& heads, const Tensor& k);

}  // namespace ft::cuda
