// SPDX-License-Identifier: BSD-3-Clause
// The instances of decoder_stack, each in a file of its own.
#pragma once

#include "cuda/decoder_stack/plan.h"

namespace ft::cuda::stack {

// What attention takes of a block, for items of so many heads.
struct AttentionRoom {
  int warps;
  int scratch_bytes;  // rings and states
};
template <int kHeadDim>
AttentionRoom attention_room(int item_heads);

template <typename T, int kHeadDim>
void launch_stack(const Arguments<T>& arguments, int64_t stream);

}  // namespace ft::cuda::stack
