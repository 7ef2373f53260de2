// SPDX-License-Identifier: BSD-3-Clause
// The implementations of skinny_linear by architecture; skinny_linear.cu has checked the arguments.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace ft::cuda {

constexpr int kMaxSkinnyTokens = 64;

// out: the type of x, or float32. bias: null for none.
void skinny_linear_sm90(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor* bias, int64_t stream);

}  // namespace ft::cuda
