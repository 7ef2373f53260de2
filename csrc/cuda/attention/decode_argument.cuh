// SPDX-License-Identifier: BSD-3-Clause
// One call of decode_attention. Attention with single queries takes this or an Attention.
#pragma once

#include "cuda/attention/attention.cuh"
#include "cuda/paged_cache.cuh"
#include "cuda/rotation.cuh"

namespace ft::cuda {

// Queries and newest keys are to be turned, the latter and their values to be put into the cache.
template <typename T>
struct DecodeAttention : Attention<T> {
  static constexpr const char* kOp = "decode_attention";
  static constexpr bool kAddsKeys = true;

  Heads<T> k;
  Destination<T> newest;
  Angles angles;  // half 0: nothing turns
  bool interleaved;
};

}  // namespace ft::cuda
