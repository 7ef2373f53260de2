// SPDX-License-Identifier: BSD-3-Clause
// The functions of ops/activation.py, and their names.
#pragma once

#include "cuda/launch.h"

namespace ft::cuda {

enum class Activation { kGelu, kGeluTanh, kRelu, kSilu };

inline Activation activation_of(const char* op, const std::string& kind) {
  if (kind == "silu") return Activation::kSilu;
  if (kind == "relu") return Activation::kRelu;
  if (kind == "gelu_tanh") return Activation::kGeluTanh;
  check_that(op, "kind", kind == "gelu", "is unknown; kinds are gelu, gelu_tanh, relu, silu");
  return Activation::kGelu;
}

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

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
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
  }
}

}  // namespace ft::cuda
