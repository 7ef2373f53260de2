// SPDX-License-Identifier: BSD-3-Clause
// A launch of decoder_stack, and where its blocks keep what in shared memory.
#pragma once

#include "cuda/attention/decode_plan.cuh"
#include "cuda/decoder_stack/steps.h"

namespace ft::cuda::stack {

// Offsets into the shared memory of a block, behind the ring of `stages`.
struct Layout {
  int stages, x_stride, normed_stride, sum_stride;
  int scratch;   // x of a product [tokens, x_stride], or the rings of attention
  int normed;    // x of a product with a norm [tokens, normed_stride]
  int residual;  // [tokens, hidden]
  int sums;      // [2, slice, token, sum_stride]
  int partials;  // of the norm
  int progress;
  int angles;  // [tokens, D], of what is turned
  int self_items, cross_items;
  int calls;  // of both kinds of attention
  int headers, barriers;
  int bytes;  // with what it takes to align the ring
};

template <typename T>
struct Arguments {
  const Maps* maps;
  const Step* steps;
  State* state;
  int num_steps, tokens, hidden;
  float inverse_hidden;
  T* buffers;  // of both turns
  int64_t buffer_elements;
  T *out, *residual;
  T *k_cache, *v_cache;  // of layer 0
  int64_t layer_stride;
  const float* cos_sin;      // [P, D], or null
  const int32_t* positions;  // [tokens]
  Attention<T> self, cross;  // without what is of a step
  bool has_cross;
  int attention_warps, item_heads;
  Layout layout;
};

// The heads of an item of attention, of so many for each head of keys.
constexpr int item_heads(int group) { return group < kItemHeads ? group : kItemHeads; }

}  // namespace ft::cuda::stack
