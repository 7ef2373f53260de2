// SPDX-License-Identifier: BSD-3-Clause
// Rotary embedding in place; heads may lie in a fused product.
#include "core/parallel.h"
#include "cpu/launchers.h"
#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {
namespace {

constexpr int64_t kGrainTokens = 16;

template <typename T>
void rotate_halves(T* head, const float* cos, const float* sin, int64_t half) {
  for_lanes(half, [&](int64_t i, int64_t count) {
    const vec a = load_lanes(head + i, count), b = load_lanes(head + half + i, count);
    const vec c = load_lanes(cos + i, count), s = load_lanes(sin + i, count);
    store_lanes(head + i, a * c - b * s, count);
    store_lanes(head + half + i, b * c + a * s, count);
  });
}

template <typename T>
void rotate_pairs(T* head, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = to_float(head[2 * i]), b = to_float(head[2 * i + 1]);
    store_part(head + 2 * i, broadcast(a * cos[i] - b * sin[i]), 1);
    store_part(head + 2 * i + 1, broadcast(b * cos[i] + a * sin[i]), 1);
  }
}

template <typename T>
void rotate_heads(const Tensor& heads, int64_t token, const float* cos, const float* sin,
                  int64_t half, bool interleaved) {
  for (int64_t n = 0; n < heads.shape[1]; ++n) {
    T* head = heads.as<T>() + token * heads.strides[0] + n * heads.strides[1];
    interleaved ? rotate_pairs(head, cos, sin, half) : rotate_halves(head, cos, sin, half);
  }
}

}  // namespace

void rope(const Tensor& q, const Tensor& k, const Tensor& positions, const Tensor& cos_sin,
          bool interleaved) {
  check_float("rope", "q", q);
  check_shape("rope", "q", q, {-1, -1, -1});
  check_rows("rope", "q", q);
  check_shape("rope", "k", k, {q.shape[0], -1, q.shape[2]});
  check_dtype("rope", "k", k, q.dtype);
  check_rows("rope", "k", k);
  check_shape("rope", "positions", positions, {q.shape[0]});
  check_dtype("rope", "positions", positions, DType::kInt32);
  check_shape("rope", "cos_sin", cos_sin, {-1, -1});
  check_dtype("rope", "cos_sin", cos_sin, DType::kFloat32);
  check_contiguous("rope", "cos_sin", cos_sin);
  check_that("rope", "cos_sin", cos_sin.shape[1] % 2 == 0, "has an odd number of columns");
  check_that("rope", "cos_sin", cos_sin.shape[1] <= q.shape[2], "is wider than a head");
  const int64_t half = cos_sin.shape[1] / 2;
  dispatch(q, [&](auto type) {
    using T = decltype(type);
    parallel_for(q.shape[0], kGrainTokens, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t position = positions.as<int32_t>()[t * positions.strides[0]];
        const float* cos = cos_sin.as<float>() + position * 2 * half;
        rotate_heads<T>(q, t, cos, cos + half, half, interleaved);
        rotate_heads<T>(k, t, cos, cos + half, half, interleaved);
      }
    });
  });
}

}  // namespace ft::cpu::FT_ISA
