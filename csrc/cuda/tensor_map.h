// SPDX-License-Identifier: BSD-3-Clause
// Descriptions of matrices for Hopper's copy engine. (CUDA driver API, "Tensor Map Object
// Management")
#pragma once

#include <cuda.h>

#include "core/tensor.h"

namespace ft::cuda {

// Boxes [box_rows, box_columns] of a 16-bit matrix [rows, columns], swizzled over 128 bytes; what
// lies outside of the matrix reads as zero. Rows must start at multiples of 16 bytes.
CUtensorMap tile_map(const char* op, const Tensor& matrix, int box_rows, int box_columns);

}  // namespace ft::cuda
