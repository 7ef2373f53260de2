// SPDX-License-Identifier: BSD-3-Clause
// The functions of ops/activation.py, and their names.
#pragma once

#include <type_traits>

#include "cuda/launch.h"
#include "device/exp2.cuh"

namespace ft::cuda {

enum class Activation { kGelu, kGeluTanh, kRelu, kSilu };

inline Activation activation_of(const char* op, const std::string& kind) {
  if (kind == "silu") return Activation::kSilu;
  if (kind == "relu") return Activation::kRelu;
  if (kind == "gelu_tanh") return Activation::kGeluTanh;
  check_that(op, "kind", kind == "gelu", "is unknown; kinds are gelu, gelu_tanh, relu, silu");
  return Activation::kGelu;
}

// Calls body with the kind as a constant.
template <typename Body>
void dispatch_activation(Activation kind, Body body) {
  switch (kind) {
    case Activation::kSilu:
      return body(std::integral_constant<Activation, Activation::kSilu>{});
    case Activation::kRelu:
      return body(std::integral_constant<Activation, Activation::kRelu>{});
    case Activation::kGeluTanh:
      return body(std::integral_constant<Activation, Activation::kGeluTanh>{});
    default:
      return body(std::integral_constant<Activation, Activation::kGelu>{});
  }
}

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// x Phi(x) within 6e-7, and 6e-6 of itself: x - x Phi(-x) for positive x and x Phi(x) for negative
// ones, where Phi(-z) = 2^P(z). The polynomial, which costs half as much as an erff, is fitted for
// z up to 6.5; beyond, what it gives is too small to count.
__device__ __forceinline__ float gelu(float x) {
  const float z = fminf(fabsf(x), 16.0f);
  float power = fmaf(z, -1.81304864e-06f, 6.12247602e-05f);
  power = fmaf(power, z, -9.28060783e-04f);
  power = fmaf(power, z, 8.50002909e-03f);
  power = fmaf(power, z, -5.39475610e-02f);
  power = fmaf(power, z, -4.58473547e-01f);
  power = fmaf(power, z, -1.15124864f);
  power = fmaf(power, z, -9.99995393e-01f);
  return fmaf(-z, device::exp2_fast(power), x < 0.0f ? 0.0f : x);
}

__device__ __forceinline__ float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;
    case Activation::kGeluTanh:
      // 0.5 x (1 + tanh(y)) = x sigmoid(2 y) with y = sqrt(2 / pi) (x + 0.044715 x^3)
      return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
    default:
      return gelu(x);
  }
}

}  // namespace ft::cuda
