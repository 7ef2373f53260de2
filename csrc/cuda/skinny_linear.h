// SPDX-License-Identifier: BSD-3-Clause
// The implementations of skinny_linear by architecture, and the checks that all skinny products
// share (skinny_linear.cu).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/tensor.h"
#include "cuda/activation.cuh"

namespace ft::cuda {

constexpr int kMaxSkinnyTokens = 64;

// A product, and what happens to its sums. Null for none: scale, bias, and the second operands.
struct SkinnyProduct {
  const char* op;
  const Tensor& out;  // the type of x, or float32 without an activation
  const Tensor &x, &weight;
  const Tensor* scale = nullptr;  // of packed int8 weights
  const Tensor* bias;
  std::optional<Activation> activation = {};
  int64_t first_activated = 0;  // column
  // Whether the activation is that of the first half of the sums, which multiply the second one.
  bool is_gated = false;
  const Tensor* second_x = nullptr;  // with second_weight: another product, added
  const Tensor* second_weight = nullptr;
  int64_t stream;

  SkinnyProduct(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                const std::optional<Tensor>& bias, int64_t stream)
      : op(op), out(out), x(x), weight(weight), bias(bias ? &*bias : nullptr), stream(stream) {}

  void activate(const std::string& kind, int64_t first) {
    activation = activation_of(op, kind);
    first_activated = first;
  }
  void gate(const std::string& kind) {
    activation = activation_of(op, kind);
    is_gated = true;
  }
};

// The first activated column of the result, behind the last one for none.
inline int first_activated(const SkinnyProduct& product) {
  return static_cast<int>(product.activation ? product.first_activated : product.out.shape[1]);
}

// All but the types of out and weight.
void check_skinny(const SkinnyProduct& product);
// The same of any number of tokens.
void check_product(const SkinnyProduct& product);

// The arguments have been checked, and none is empty.
using SkinnyLinear = void(const SkinnyProduct& product);

SkinnyLinear skinny_linear_sm90;
SkinnyLinear skinny_wide_sm90;  // of skinny_linear_sm90, for weights of many rows
SkinnyLinear skinny_linear_sm80;
SkinnyLinear skinny_linear_int8_sm90;

// Whether Hopper's kernels run here and take `weight`: rows of multiples of 128 bytes.
bool fits_sm90(const Tensor& weight);
// Whether of those skinny_wide_sm90 takes it; by the weights alone: a row of x has the same result
// in any number of rows.
bool is_wide_sm90(const Tensor& weight, bool is_gated);

}  // namespace ft::cuda
