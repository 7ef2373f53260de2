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
// x (1 + erf(x / sqrt(2))) / 2; the smaller tail, which does not cancel, within 8e-8 by
// formula 7.1.26 of Abramowitz and Stegun, Handbook of Mathematical Functions.
inline vec gelu(vec x) {
  const vec z = 0.70710678f * (x < 0.0f ? -x : x);
  const vec t = 1.0f / (1.0f + 0.3275911f * z);
  vec p = t * 1.061405429f - 1.453152027f;
  p = t * p + 1.421413741f;
  p = t * p - 0.284496736f;
  p = t * p + 0.254829592f;
  const vec tail = 0.5f * t * p * exp(-z * z);
  return x * (x < 0.0f ? tail : 1.0f - tail);
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
