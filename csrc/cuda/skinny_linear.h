// SPDX-License-Identifier: BSD-3-Clause
// The implementations of skinny_linear by architecture, and the checks that all skinny products
// share (skinny_linear.cu).
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace ft::cuda {

constexpr int kMaxSkinnyTokens = 64;

// All but the types of out and weight. bias: null for none.
void check_skinny(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                  const Tensor* bias);

// The arguments have been checked. out: the type of x, or float32. bias: null for none.
using SkinnyLinear = void(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                          const Tensor* bias, int64_t stream);

// Multiples of kColumnsSm90 columns.
constexpr int kColumnsSm90 = 64;
SkinnyLinear skinny_linear_sm90;
SkinnyLinear skinny_linear_sm80;

}  // namespace ft::cuda
