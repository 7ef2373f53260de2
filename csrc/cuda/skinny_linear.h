// SPDX-License-Identifier: BSD-3-Clause
// The implementations of skinny_linear by architecture, and the checks that all skinny products
// share (skinny_linear.cu).
#pragma once

#include <cstdint>
#include <optional>

#include "core/tensor.h"
#include "cuda/activation.cuh"

namespace ft::cuda {

constexpr int kMaxSkinnyTokens = 64;

// All but the types of out and weight. bias: null for none. is_gated: out has half the columns.
void check_skinny(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                  const Tensor* bias, bool is_gated);

// The arguments have been checked. out: the type of x, or float32 without a gate. bias: null for
// none. gate: what the first half of the sums goes through before it multiplies the second one.
using SkinnyLinear = void(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                          const Tensor* bias, std::optional<Activation> gate, int64_t stream);

SkinnyLinear skinny_linear_sm90;
SkinnyLinear skinny_linear_sm80;

// The same with int8 weights.
void skinny_linear_int8_sm90(const char* op, const Tensor& out, const Tensor& x,
                             const Tensor& weight, const Tensor& scale, const Tensor* bias,
                             std::optional<Activation> gate, int64_t stream);

// Whether Hopper's kernels run here and take `weight`: rows of multiples of 128 bytes.
bool fits_sm90(const Tensor& weight);

}  // namespace ft::cuda
