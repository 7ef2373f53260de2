// SPDX-License-Identifier: BSD-3-Clause
// Descriptions of matrices for Hopper's copy engine. (CUDA driver API, "Tensor Map Object
// Management")
#pragma once

#include <cuda.h>

#include "core/tensor.h"

namespace ft::cuda {

// A matrix [rows, columns] of 16-bit elements or int8, cut into columns / box_columns vertical
// strips, whose copies bring `num_boxes` neighbouring boxes [box_rows, box_columns], one behind the
// other, swizzled over 128 bytes. What lies outside of the matrix reads as zero. Rows must start at
// multiples of 16 bytes, and `columns` must be a multiple of box_columns. With several parts, which
// share the rows evenly, a box has box_rows of each part, those of the first part first.
CUtensorMap box_map(const char* op, const Tensor& matrix, int box_rows, int box_columns,
                    int num_boxes, int num_parts = 1);

// A tensor of 16-bit elements whose copies bring boxes of kStripColumns columns by `box_rows` steps
// along `axis`, one row behind the other, swizzled over 128 bytes; coordinates are those of the
// axes, the last axis first. What lies outside of the tensor reads as zero. All strides must be
// multiples of 16 bytes.
constexpr int kStripColumns = 64;
CUtensorMap strip_map(const char* op, const Tensor& tensor, int axis, int box_rows);

}  // namespace ft::cuda
