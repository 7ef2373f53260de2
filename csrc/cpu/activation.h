// SPDX-License-Identifier: BSD-3-Clause
// The functions of ops/activation.py, and their names.
#pragma once

#include <string>

#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {

inline vec sigmoid(vec x) { return 1.0f / (1.0f + exp(-x)); }
inline vec silu(vec x) { return x * sigmoid(x); }
inline vec relu(vec x) { return maximum(vec{}, x); }  // in this order it keeps a NaN
// 0.5 x (1 + tanh(y)) = x sigmoid(2 y) with y = sqrt(2 / pi) (x + 0.044715 x^3)
inline vec gelu_tanh(vec x) { return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x)); }
inline vec gelu(vec x) {
  vec y;
  for (int i = 0; i < kLanes; ++i) y[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678f));
  return y;
}

using Activation = vec (*)(vec);

inline Activation find_activation(const char* op, const std::string& kind) {
  if (kind == "silu") return silu;
  if (kind == "relu") return relu;
  if (kind == "gelu_tanh") return gelu_tanh;
  check_that(op, "kind", kind == "gelu", "is unknown; kinds are gelu, gelu_tanh, relu, silu");
  return gelu;
}

}  // namespace ft::cpu::FT_ISA
