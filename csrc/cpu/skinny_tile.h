// SPDX-License-Identifier: BSD-3-Clause
// A tile of skinny_linear: kColumns weight rows, which stay in the first cache while they are
// multiplied with every row of x, kRows at a time.
#pragma once

#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {

// Sums, columns of the weight and a row of x stay in registers: 32 with AVX-512, else 16.
constexpr int kRows = 4;
#if defined(__AVX512F__)
constexpr int kColumns = 4;
#else
constexpr int kColumns = 3;
#endif

constexpr int64_t kPageBytes = 4096;  // beyond whose end no processor prefetches

// acc[r][c] = sum_k x[r][k] w[c][k]
template <int R, int C, typename T>
void multiply_tile(float (&acc)[kRows][kColumns], const float* x, int64_t x_stride, const T* weight,
                   int64_t weight_stride, int64_t size) {
  vec total[R][C] = {};
  const auto step = [&](int64_t k, auto load_x, auto load_w) {
    vec w[C];
    for (int c = 0; c < C; ++c) w[c] = load_w(weight + c * weight_stride + k);
    for (int r = 0; r < R; ++r) {
      const vec value = load_x(x + r * x_stride + k);
      for (int c = 0; c < C; ++c) total[r][c] += value * w[c];
    }
  };
  const int64_t whole = size / kLanes * kLanes;
  for (int64_t k = 0; k < whole; k += kLanes) {
    step(k, [](const float* p) { return load(p); }, [](const T* p) { return load(p); });
  }
  if (const int64_t rest = size - whole) {
    step(
        whole, [&](const float* p) { return load_part(p, rest); },
        [&](const T* p) { return load_part(p, rest); });
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) acc[r][c] = sum(total[r][c]);
  }
}

template <int C, int R = kRows, typename T>
void multiply_rows(int rows, float (&acc)[kRows][kColumns], const float* x, int64_t x_stride,
                   const T* weight, int64_t weight_stride, int64_t size) {
  if (rows == R) return multiply_tile<R, C>(acc, x, x_stride, weight, weight_stride, size);
  if constexpr (R > 1) {
    multiply_rows<C, R - 1>(rows, acc, x, x_stride, weight, weight_stride, size);
  }
}

// What the weights of one product are made of; null where there is no scale or bias.
template <typename T, typename W>
struct Matrix {
  const W* weight;
  int64_t stride, columns, size;
  const float* scale;
  const T* bias;

  float finish(float sum, int64_t n) const {
    const float scaled = scale == nullptr ? sum : sum * scale[n];
    return bias == nullptr ? scaled : scaled + to_float(bias[n]);
  }
};

// The weights of the tile that comes next, brought while this one is multiplied: otherwise the
// first rows of x would wait for them.
template <typename T, typename W>
class Ahead {
 public:
  // Of columns [n, n + columns), in so many parts, 0 for nothing.
  Ahead(const Matrix<T, W>& matrix, int64_t n, int columns, int64_t parts)
      : weight_(matrix.weight + n * matrix.stride),
        stride_(matrix.stride),
        row_lines_((matrix.size * static_cast<int64_t>(sizeof(W)) + kLineBytes - 1) / kLineBytes),
        left_(parts > 0 && n + columns <= matrix.columns ? columns * row_lines_ : 0),
        of_part_(parts > 0 ? (left_ + parts - 1) / parts : 0) {}

  void bring_part() {
    for (int64_t i = 0; i < of_part_ && left_ > 0; ++i, --left_) {
      __builtin_prefetch(weight_ + line_ * (kLineBytes / static_cast<int64_t>(sizeof(W))));
      if (++line_ == row_lines_) line_ = 0, weight_ += stride_;
    }
  }

 private:
  static constexpr int64_t kLineBytes = 64;
  const W* weight_;
  int64_t stride_, row_lines_, left_, of_part_, line_ = 0;
};

// Columns [n, n + columns) of the products with every row of x, to [rows, columns] at `out`.
template <typename Out, typename T, typename W>
void multiply_columns(Out* out, int64_t out_stride, const float* x, int64_t rows,
                      const Matrix<T, W>& matrix, int64_t n, int columns) {
  const int64_t size = matrix.size;
  const W* w = matrix.weight + n * matrix.stride;
  // Of few rows the processor brings long rows of the weight fast enough itself.
  const bool brings = rows > (size * static_cast<int64_t>(sizeof(W)) < kPageBytes ? 1 : kRows);
  Ahead<T, W> ahead(matrix, n + columns, columns, brings ? (rows + kRows - 1) / kRows : 0);
  for (int64_t m = 0; m < rows; m += kRows) {
    ahead.bring_part();
    const int count = static_cast<int>(rows - m < kRows ? rows - m : kRows);
    float acc[kRows][kColumns];
    if (columns == kColumns) {
      multiply_rows<kColumns>(count, acc, x + m * size, size, w, matrix.stride, size);
    } else {
      multiply_rows<1>(count, acc, x + m * size, size, w, matrix.stride, size);
    }
    for (int r = 0; r < count; ++r) {
      Out* y = out + (m + r) * out_stride;
      for (int c = 0; c < columns; ++c) {
        store_part(y + c, broadcast(matrix.finish(acc[r][c], n + c)), 1);
      }
    }
  }
}

}  // namespace ft::cpu::FT_ISA
