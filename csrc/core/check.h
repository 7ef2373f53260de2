// SPDX-License-Identifier: BSD-3-Clause
// Argument checks of the launchers. Each names op and argument, what came and what is allowed.
#pragma once

#include <initializer_list>

#include "core/tensor.h"

namespace ft {

// Every check throws std::invalid_argument. A size of -1 allows any.
void check_shape(const char* op, const char* argument, const Tensor& tensor,
                 std::initializer_list<int64_t> shape);
void check_dtype(const char* op, const char* argument, const Tensor& tensor, DType dtype);
void check_float(const char* op, const char* argument, const Tensor& tensor);
// Elements of the last dimension lie side by side.
void check_rows(const char* op, const char* argument, const Tensor& tensor);
void check_contiguous(const char* op, const char* argument, const Tensor& tensor);
void check_that(const char* op, const char* argument, bool holds, const char* requirement);

}  // namespace ft
