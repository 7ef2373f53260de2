// SPDX-License-Identifier: BSD-3-Clause
// Element-wise activations, plain and gated.
#include "cpu/activation.h"

#include "core/parallel.h"
#include "cpu/launchers.h"
#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {
namespace {

void check(const char* op, const Tensor& out, const Tensor& x, int64_t columns) {
  check_float(op, "x", x);
  check_shape(op, "x", x, {-1, -1});
  check_rows(op, "x", x);
  check_shape(op, "out", out, {x.shape[0], columns});
  check_dtype(op, "out", out, x.dtype);
  check_rows(op, "out", out);
}

constexpr int64_t kGrainElements = 1 << 13;

int64_t grain_rows(int64_t columns) { return 1 + kGrainElements / (columns + 1); }

}  // namespace

void activation(const Tensor& out, const Tensor& x, const std::string& kind) {
  check("activation", out, x, x.ndim == 2 ? x.shape[1] : -1);
  const Activation function = find_activation("activation", kind);
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    parallel_for(x.shape[0], grain_rows(x.shape[1]), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T* row = x.as<T>() + t * x.strides[0];
        T* y = out.as<T>() + t * out.strides[0];
        for_lanes(x.shape[1], [&](int64_t i, int64_t count) {
          store_lanes(y + i, function(load_lanes(row + i, count)), count);
        });
      }
    });
  });
}

void gated_activation(const Tensor& out, const Tensor& x, const std::string& kind) {
  check("gated_activation", out, x, x.ndim == 2 ? x.shape[1] / 2 : -1);
  const Activation function = find_activation("gated_activation", kind);
  const int64_t size = out.shape[1];
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    parallel_for(x.shape[0], grain_rows(size), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T* gate = x.as<T>() + t * x.strides[0];
        T* y = out.as<T>() + t * out.strides[0];
        for_lanes(size, [&](int64_t i, int64_t count) {
          const vec up = load_lanes(gate + size + i, count);
          store_lanes(y + i, function(load_lanes(gate + i, count)) * up, count);
        });
      }
    });
  });
}

}  // namespace ft::cpu::FT_ISA
