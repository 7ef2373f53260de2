// SPDX-License-Identifier: BSD-3-Clause
// hidden [T, H] += table[positions], in place.
#include "core/parallel.h"
#include "cpu/launchers.h"
#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {
namespace {

constexpr int64_t kGrainTokens = 16;

}  // namespace

void add_positions(const Tensor& hidden, const Tensor& table, const Tensor& positions) {
  check_float("add_positions", "hidden", hidden);
  check_shape("add_positions", "hidden", hidden, {-1, -1});
  check_rows("add_positions", "hidden", hidden);
  check_shape("add_positions", "table", table, {-1, hidden.shape[1]});
  check_dtype("add_positions", "table", table, hidden.dtype);
  check_rows("add_positions", "table", table);
  check_shape("add_positions", "positions", positions, {hidden.shape[0]});
  check_dtype("add_positions", "positions", positions, DType::kInt32);
  check_contiguous("add_positions", "positions", positions);
  dispatch(hidden, [&](auto type) {
    using T = decltype(type);
    parallel_for(hidden.shape[0], kGrainTokens, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        T* row = hidden.as<T>() + t * hidden.strides[0];
        const T* position = table.as<T>() + positions.as<int32_t>()[t] * table.strides[0];
        for_lanes(hidden.shape[1], [&](int64_t i, int64_t count) {
          store_lanes(row + i, load_lanes(row + i, count) + load_lanes(position + i, count), count);
        });
      }
    });
  });
}

}  // namespace ft::cpu::FT_ISA
