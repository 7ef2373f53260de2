// SPDX-License-Identifier: BSD-3-Clause
// out = x weight^T [* scale of the weight's row] + bias, or of the halves of that activation(first)
// * second: for few rows of x the weights [N, K] are read once, in order, by all threads together.
// Each output is one accumulator over K in steps of kLanes, whatever the tile (cpu/skinny_tile.h),
// so a row's result does not depend on the other rows or on the threads.
#include <cstdlib>

#include "core/parallel.h"
#include "cpu/activation.h"
#include "cpu/launchers.h"
#include "cpu/skinny_tile.h"

namespace ft::cpu::FT_ISA {
namespace {

constexpr int64_t kGatedColumns = 64;
constexpr int64_t kPartElements = 1 << 15;   // of x
constexpr int64_t kGrainElements = 1 << 15;  // of the weight: some microseconds

// The processor prefetches what is read in order, but only within a page: weight rows shorter than
// that stream better one after the other than side by side, where one row of x gains nothing from
// several. Prefetching for a single row as well was slower in every size.
int tile_width(int64_t rows, int64_t weight_row_bytes) {
  return rows == 1 && weight_row_bytes < kPageBytes ? 1 : kColumns;
}

// Columns [n, n + count) in tiles, for a part of the rows at a time, which stays in the second
// cache.
template <typename Out, typename T, typename W>
void multiply_range(Out* out, int64_t out_stride, const float* x, int64_t rows,
                    const Matrix<T, W>& matrix, int64_t n, int64_t count) {
  const int width = tile_width(rows, matrix.size * sizeof(W));
  const int64_t whole = count / width * width;
  const int64_t part = kRows * (1 + kPartElements / (kRows * matrix.size));
  for (int64_t m = 0; m < rows; m += part) {
    const int64_t some = rows - m < part ? rows - m : part;
    for (int64_t i = 0; i < count; i += i < whole ? width : 1) {
      multiply_columns(out + m * out_stride + i, out_stride, x + m * matrix.size, some, matrix,
                       n + i, i < whole ? width : 1);
    }
  }
}

template <typename Out, typename T, typename W>
void multiply(const Tensor& out, const float* x, const Matrix<T, W>& matrix) {
  const int64_t smallest = 1 + kGrainElements / matrix.size, columns = matrix.columns;
  Out* const y = out.as<Out>();
  // Whole tiles of any width.
  const int64_t grain = (balanced_grain(columns, smallest) + kColumns - 1) / kColumns * kColumns;
  parallel_for(columns, grain, [&](int64_t begin, int64_t end) {
    multiply_range(y + begin, out.strides[0], x, out.shape[0], matrix, begin, end - begin);
  });
}

// Grows with the largest product of the thread that launches, and stays.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  float* reserve(int64_t count) {
    if (count > size_) {
      std::free(data_);
      data_ = static_cast<float*>(std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64));
      size_ = count;
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;
};

// Activates the first half of the products and multiplies it with the second one, kGatedColumns
// columns of both at a time, in the order in which their weights lie.
template <typename T, typename W>
void multiply_gated(const Tensor& out, const float* x, const Matrix<T, W>& matrix,
                    Activation activate) {
  const int64_t rows = out.shape[0], size = out.shape[1];
  const int64_t blocks = (size + kGatedColumns - 1) / kGatedColumns;
  const int64_t smallest = 1 + kGrainElements / (2 * kGatedColumns * matrix.size);
  parallel_for(blocks, balanced_grain(blocks, smallest), [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    float* const gate = scratch.reserve(2 * rows * kGatedColumns);
    float* const gated = gate + rows * kGatedColumns;
    for (int64_t n = begin * kGatedColumns; n < end * kGatedColumns; n += kGatedColumns) {
      const int64_t count = size - n < kGatedColumns ? size - n : kGatedColumns;
      multiply_range(gate, kGatedColumns, x, rows, matrix, n, count);
      multiply_range(gated, kGatedColumns, x, rows, matrix, size + n, count);
      for (int64_t m = 0; m < rows; ++m) {
        T* y = out.as<T>() + m * out.strides[0] + n;
        for_lanes(count, [&](int64_t i, int64_t lanes) {
          const int64_t at = m * kGatedColumns + i;
          const vec activated = activate(load_lanes(gate + at, lanes));
          store_lanes(y + i, activated * load_lanes(gated + at, lanes), lanes);
        });
      }
    }
  });
}

// x as contiguous floats, converted once for all columns where it is something else.
template <typename T>
const float* widened(const Tensor& x) {
  static thread_local Scratch scratch;
  const int64_t rows = x.shape[0], size = x.shape[1];
  if (x.dtype == DType::kFloat32 && (rows == 1 || x.strides[0] == size)) return x.as<float>();
  float* wide = scratch.reserve(rows * size);
  for (int64_t m = 0; m < rows; ++m) {
    const T* row = x.as<T>() + m * x.strides[0];
    for_lanes(size, [&](int64_t i, int64_t count) {
      store_lanes(wide + m * size + i, load_lanes(row + i, count), count);
    });
  }
  return wide;
}

void check(const char* op, const Tensor& out, DType out_dtype, const Tensor& x,
           const Tensor& weight, DType weight_dtype, const Tensor* scale, const Tensor* bias,
           bool is_gated = false) {
  check_float(op, "x", x);
  check_shape(op, "x", x, {-1, -1});
  check_rows(op, "x", x);
  check_shape(op, "weight", weight, {-1, x.shape[1]});
  check_dtype(op, "weight", weight, weight_dtype);
  check_rows(op, "weight", weight);
  check_that(op, "weight", !is_gated || weight.shape[0] % 2 == 0, "has an odd number of rows");
  check_shape(op, "out", out, {x.shape[0], weight.shape[0] / (is_gated ? 2 : 1)});
  check_dtype(op, "out", out, out_dtype);
  check_rows(op, "out", out);
  if (scale != nullptr) {
    check_shape(op, "scale", *scale, {weight.shape[0]});
    check_dtype(op, "scale", *scale, DType::kFloat32);
    check_rows(op, "scale", *scale);
  }
  if (bias != nullptr) {
    check_shape(op, "bias", *bias, {weight.shape[0]});
    check_dtype(op, "bias", *bias, x.dtype);
    check_rows(op, "bias", *bias);
  }
}

// Calls body(value of the type of x, value of the type of the weight).
template <typename Body>
void dispatch_both(const Tensor& x, const Tensor& weight, Body body) {
  dispatch(x, [&](auto type) {
    if (weight.dtype == DType::kInt8) return body(type, int8_t{});
    body(type, type);
  });
}

void run(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor* scale,
         const Tensor* bias, Activation gate = nullptr) {
  dispatch_both(x, weight, [&](auto type, auto weight_type) {
    using T = decltype(type);
    using W = decltype(weight_type);
    const Matrix<T, W> matrix{weight.as<W>(),
                              weight.strides[0],
                              weight.shape[0],
                              weight.shape[1],
                              scale == nullptr ? nullptr : scale->as<float>(),
                              bias == nullptr ? nullptr : bias->as<T>()};
    if (gate != nullptr) return multiply_gated(out, widened<T>(x), matrix, gate);
    if (out.dtype == DType::kFloat32) return multiply<float>(out, widened<T>(x), matrix);
    multiply<T>(out, widened<T>(x), matrix);
  });
}

}  // namespace

void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias) {
  const Tensor* const added = bias ? &*bias : nullptr;
  check("skinny_linear", out, x.dtype, x, weight, x.dtype, nullptr, added);
  run(out, x, weight, nullptr, added);
}

void skinny_gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                         const std::optional<Tensor>& bias, const std::string& kind) {
  const Tensor* const added = bias ? &*bias : nullptr;
  check("skinny_gated_linear", out, x.dtype, x, weight, x.dtype, nullptr, added, true);
  run(out, x, weight, nullptr, added, find_activation("skinny_gated_linear", kind));
}

void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight) {
  check("skinny_logits", out, DType::kFloat32, x, weight, x.dtype, nullptr, nullptr);
  run(out, x, weight, nullptr, nullptr);
}

void skinny_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale, const std::optional<Tensor>& bias) {
  const Tensor* const added = bias ? &*bias : nullptr;
  check("skinny_linear_int8", out, x.dtype, x, weight, DType::kInt8, &scale, added);
  run(out, x, weight, &scale, added);
}

void skinny_gated_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                              const Tensor& scale, const std::optional<Tensor>& bias,
                              const std::string& kind) {
  const Tensor* const added = bias ? &*bias : nullptr;
  check("skinny_gated_linear_int8", out, x.dtype, x, weight, DType::kInt8, &scale, added, true);
  run(out, x, weight, &scale, added, find_activation("skinny_gated_linear_int8", kind));
}

void skinny_logits_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale) {
  check("skinny_logits_int8", out, DType::kFloat32, x, weight, DType::kInt8, &scale, nullptr);
  run(out, x, weight, &scale, nullptr);
}

}  // namespace ft::cpu::FT_ISA
