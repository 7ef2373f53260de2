// SPDX-License-Identifier: BSD-3-Clause
// rms_norm, layer_norm and their forms behind a residual sum. Rows [T, H], one after the other; a
// row is read from cache again for its second pass.
#include "core/parallel.h"
#include "cpu/launchers.h"
#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {
namespace {

constexpr int64_t kGrainRows = 16;

// y[h] = x[h] * scale + shift, times the weight, plus the bias.
template <typename T>
void normalise(T* y, const T* x, const T* weight, const T* bias, int64_t size, float mean,
               float scale) {
  for_lanes(size, [&](int64_t i, int64_t count) {
    vec value = (load_lanes(x + i, count) - mean) * scale * load_lanes(weight + i, count);
    if (bias != nullptr) value += load_lanes(bias + i, count);
    store_lanes(y + i, value, count);
  });
}

template <typename T>
void rms_norm_row(T* y, const T* x, const T* weight, int64_t size, float eps) {
  vec squares{};
  for_lanes(size, [&](int64_t i, int64_t count) {
    const vec value = load_lanes(x + i, count);
    squares += value * value;
  });
  normalise(y, x, weight, static_cast<const T*>(nullptr), size, 0.0f,
            1.0f / std::sqrt(sum(squares) / size + eps));
}

// x - shift in the first `count` lanes, zero in the others.
template <typename T>
vec shifted(const T* x, int64_t count, float shift) {
  vec value = load_lanes(x, count) - shift;
  for (int64_t lane = count; lane < kLanes; ++lane) value[lane] = 0.0f;
  return value;
}

// The mean is taken of distances from the first element: those of a row far from zero are small,
// and so is what their sum rounds off.
template <typename T>
void layer_norm_row(T* y, const T* x, const T* weight, const T* bias, int64_t size, float eps) {
  const float first = to_float(x[0]);
  vec total{};
  for_lanes(size, [&](int64_t i, int64_t count) { total += shifted(x + i, count, first); });
  const float mean = first + sum(total) / size;
  vec squares{};
  for_lanes(size, [&](int64_t i, int64_t count) {
    const vec value = shifted(x + i, count, mean);
    squares += value * value;
  });
  normalise(y, x, weight, bias, size, mean, 1.0f / std::sqrt(sum(squares) / size + eps));
}

template <typename T>
void add_rows(T* total, const T* residual, const T* x, int64_t size) {
  for_lanes(size, [&](int64_t i, int64_t count) {
    store_lanes(total + i, load_lanes(residual + i, count) + load_lanes(x + i, count), count);
  });
}

void check(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight) {
  check_float(op, "x", x);
  check_shape(op, "x", x, {-1, -1});
  check_rows(op, "x", x);
  check_shape(op, "out", out, {x.shape[0], x.shape[1]});
  check_dtype(op, "out", out, x.dtype);
  check_rows(op, "out", out);
  check_shape(op, "weight", weight, {x.shape[1]});
  check_dtype(op, "weight", weight, x.dtype);
  check_rows(op, "weight", weight);
}

// `residual` is null where there is no sum before the norm; a sum that nobody needs is made in
// `out`.
template <typename Row>
void run(const Tensor& out, const Tensor& x, const Tensor* residual, bool keeps_sum, Row row) {
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    parallel_for(x.shape[0], kGrainRows, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T* source = x.as<T>() + t * x.strides[0];
        T* result = out.as<T>() + t * out.strides[0];
        if (residual != nullptr) {
          T* other = residual->as<T>() + t * residual->strides[0];
          T* total = keeps_sum ? other : result;
          add_rows(total, other, source, x.shape[1]);
          source = total;
        }
        row(result, source, x.shape[1]);
      }
    });
  });
}

void check_residual(const char* op, const Tensor& residual, const Tensor& x) {
  check_shape(op, "residual", residual, {x.shape[0], x.shape[1]});
  check_dtype(op, "residual", residual, x.dtype);
  check_rows(op, "residual", residual);
}

void check_bias(const char* op, const Tensor& bias, const Tensor& x) {
  check_shape(op, "bias", bias, {x.shape[1]});
  check_dtype(op, "bias", bias, x.dtype);
  check_rows(op, "bias", bias);
}

void rms(const Tensor& out, const Tensor& x, const Tensor* residual, bool keeps_sum,
         const Tensor& weight, double eps) {
  run(out, x, residual, keeps_sum, [&](auto* y, const auto* row, int64_t size) {
    using T = std::remove_reference_t<decltype(*y)>;
    rms_norm_row(y, row, weight.as<const T>(), size, static_cast<float>(eps));
  });
}

void layer(const Tensor& out, const Tensor& x, const Tensor* residual, bool keeps_sum,
           const Tensor& weight, const Tensor& bias, double eps) {
  run(out, x, residual, keeps_sum, [&](auto* y, const auto* row, int64_t size) {
    using T = std::remove_reference_t<decltype(*y)>;
    layer_norm_row(y, row, weight.as<const T>(), bias.as<const T>(), size, static_cast<float>(eps));
  });
}

}  // namespace

void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, double eps) {
  check("rms_norm", out, x, weight);
  rms(out, x, nullptr, false, weight, eps);
}

void add_rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, bool keeps_sum) {
  check("add_rms_norm", out, x, weight);
  check_residual("add_rms_norm", residual, x);
  rms(out, x, &residual, keeps_sum, weight, eps);
}

void layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias,
                double eps) {
  check("layer_norm", out, x, weight);
  check_bias("layer_norm", bias, x);
  layer(out, x, nullptr, false, weight, bias, eps);
}

void add_layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual,
                    const Tensor& weight, const Tensor& bias, double eps, bool keeps_sum) {
  check("add_layer_norm", out, x, weight);
  check_residual("add_layer_norm", residual, x);
  check_bias("add_layer_norm", bias, x);
  layer(out, x, &residual, keeps_sum, weight, bias, eps);
}

}  // namespace ft::cpu::FT_ISA
