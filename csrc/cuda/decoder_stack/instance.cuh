// SPDX-License-Identifier: BSD-3-Clause
// The launchers of launch.h for one head size.
#pragma once

#include "cuda/attention/decode.cuh"
#include "cuda/attention/limits.h"
#include "cuda/decoder_stack/kernel.cuh"
#include "cuda/decoder_stack/launch.h"

namespace ft::cuda::stack {

template <int kHeadDim>
AttentionRoom attention_room(int item_heads) {
  const int warps = num_decode_warps<kHeadDim>(item_heads);
  return {warps, Rings<kHeadDim>::bytes(warps, item_heads)};
}

template <typename T, int kHeadDim>
void launch_stack(const Arguments<T>& arguments, int64_t stream) {
  const auto kernel = decoder_stack_kernel<T, kHeadDim>;
  static const bool allowed = (allow_shared(kOp, kernel, shared_bytes_per_block()), true);
  (void)allowed;
  launch(kOp, kernel, num_multiprocessors(), kThreads, arguments.layout.bytes, stream, arguments);
}

}  // namespace ft::cuda::stack
