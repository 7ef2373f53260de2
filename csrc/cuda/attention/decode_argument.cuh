// SPDX-License-Identifier: BSD-3-Clause
// The argument of attention with single queries.
#pragma once

#include "cuda/attention/attention.cuh"
#include "cuda/paged_cache.cuh"
#include "cuda/rotation.cuh"

namespace ft::cuda {

// What a step adds to the cache, where the kernel does so itself; none: all keys lie there, and
// queries are turned.
template <typename T>
struct Newest {
  bool is_given, interleaved;
  Heads<T> k;
  Destination<T> to;
  Angles angles;  // half 0: nothing turns

  __device__ bool turns() const { return is_given && angles.half > 0; }
};

template <typename T>
struct DecodeAttention : Attention<T> {
  Newest<T> newest;
};

}  // namespace ft::cuda
