// SPDX-License-Identifier: BSD-3-Clause
// Descriptions of matrices for Hopper's copy engine. (CUDA driver API, "Tensor Map Object
// Management")
#pragma once

#include <cuda.h>

#include "core/tensor.h"

namespace ft::cuda {

// A matrix [rows, columns] of 16-bit elements or bytes, cut into columns / box_columns vertical
// strips, whose copies bring `num_boxes` neighbouring boxes [box_rows, box_columns], one behind the
// other, swizzled over 128 bytes. What lies outside of the matrix reads as zero. Rows must start at
// multiples of 16 bytes, and `columns` must be a multiple of box_columns. With several parts, which
// share the rows evenly, a box has box_rows of each part, those of the first part first.
CUtensorMap box_map(const char* op, const Tensor& matrix, int box_rows, int box_columns,
                    int num_boxes, int num_parts = 1);

constexpr int kStripColumns = 64;  // of 16 bits, 128 bytes

// A matrix [rows, columns] of 16-bit elements whose boxes [box_rows, box_columns] are written as
// they lie in shared memory, row by row, those of kStripColumns swizzled over 128 bytes;
// coordinates: column, row. Its rows must be multiples of 16 bytes apart.
CUtensorMap result_map(const char* op, const Tensor& matrix, int box_rows, int box_columns);

constexpr int kCacheGroupKeys = 8;

// Queries [T, N, D] of 16-bit elements, whose copies bring kStripColumns columns of one head for
// `box_tokens` tokens, swizzled over 128 bytes; coordinates: column, head, token. What lies outside
// of the tensor reads as zero. Strides must be multiples of 16 bytes.
CUtensorMap query_map(const char* op, const Tensor& q, int box_tokens);

// A cache [P, K, S, D] of the same, whose copies bring `box_keys` keys of one head in groups of
// kCacheGroupKeys: [group, strip, key, column], swizzled likewise. Coordinates: three zeros, the
// group among the page's K * S / kCacheGroupKeys, the page. A page's heads must lie one behind the
// other.
CUtensorMap cache_map(const char* op, const Tensor& cache, int box_keys);

}  // namespace ft::cuda
