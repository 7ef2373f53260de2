// SPDX-License-Identifier: BSD-3-Clause
// The launch of prefill_sm90.cuh, and what its maps describe.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/attention/prefill_sm90.cuh"
#include "cuda/launch.h"

namespace ft::cuda::prefill_sm90 {

template <typename T>
constexpr DType kType = std::is_same_v<T, __nv_bfloat16> ? DType::kBFloat16 : DType::kFloat16;

// Heads of tokens [T, N, D].
template <typename T>
Tensor heads_of(const Queries<T>& a, const T* data, int64_t token_stride, int64_t head_stride) {
  return {const_cast<T*>(data),           3,        {a.num_tokens, a.num_heads, a.head_dim},
          {token_stride, head_stride, 1}, kType<T>, true};
}

// False if the device does not run the kernel; only where it does, maps can be made.
template <typename S, typename A, typename MakeMaps>
bool launch_shape(const A& a, MakeMaps make_maps, int64_t stream) {
  const auto kernel = prefill_sm90_kernel<A, S>;
  if (!has_warpgroup_products()) return false;
  static const bool allowed = (allow_shared(a.kOp, kernel, S::kSharedBytes), true);
  (void)allowed;
  // Each sequence may leave one tile unfilled.
  const int64_t tiles = a.num_tokens / S::kQueries + a.num_sequences;
  const int64_t blocks = std::min<int64_t>(tiles * a.num_heads, S::kBlocks * num_multiprocessors());
  launch(a.kOp, kernel, static_cast<unsigned>(blocks), S::kThreads, S::kSharedBytes, stream,
         make_maps(), a);
  return true;
}

}  // namespace ft::cuda::prefill_sm90
