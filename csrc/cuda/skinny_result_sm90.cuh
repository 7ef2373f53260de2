// SPDX-License-Identifier: BSD-3-Clause
// What becomes of the sums of skinny_linear on Hopper.
#pragma once

#include "cuda/launch.h"
#include "cuda/skinny_linear.h"
#include "device/vec.cuh"

namespace ft::cuda::sm90 {

// Of a row of the weight: what its sums are multiplied with, and what is added then.
struct RowValues {
  float scale = 1.0f, bias = 0.0f;

  // `factor`: of all sums. Scales multiplied with it as they are loaded would be waited for.
  __device__ float finished(float sum, float factor) const { return sum * (scale * factor) + bias; }
};

// Where the sums go, [tokens, columns]. With two parts of the weight, of `columns` rows each, the
// first one gates the second: out = activation(first) * second.
template <typename T, typename Out, int kParts>
struct Result {
  Out* out;
  const float* scale;  // [columns * kParts] of packed int8, or null
  const T* bias;       // [columns * kParts] or null
  int tokens, columns;
  Activation activation;
  int first_activated;  // column, behind the last one for none

  explicit Result(const SkinnyProduct& product)
      : out(product.out.as<Out>()),
        scale(product.scale ? product.scale->as<float>() : nullptr),
        bias(product.bias ? product.bias->as<T>() : nullptr),
        tokens(static_cast<int>(product.x.shape[0])),
        columns(static_cast<int>(product.out.shape[1])),
        activation(product.activation.value_or(Activation{})),
        first_activated(ft::cuda::first_activated(product)) {}

  // Of row `row` of the weight, behind whose rows lies `end`.
  __device__ T bias_of(int row, int end) const {
    return bias != nullptr && row < end ? bias[row] : T(0.0f);
  }

  // The same with the scale.
  __device__ RowValues row_values(int row, int end) const {
    RowValues values;
    if (scale != nullptr && row < end) values.scale = scale[row];
    values.bias = device::to_float(bias_of(row, end));
    return values;
  }

  // A column that there is, of a token that there is; the sum that it gates, where there is one.
  __device__ void put(int token, int column, float sum, float gated) const {
    const float x = column < first_activated ? sum : activate(activation, sum);
    out[int64_t{token} * columns + column] = device::from_float<Out>(kParts > 1 ? x * gated : x);
  }

  // Calls body with a function of (sum, column) for the activation, which decides nothing but
  // whether the column has one: branches are slow where every sum takes them.
  template <typename Body>
  __device__ void with_activation(const Body& body) const {
    if (first_activated >= columns) return body([](float x, int) { return x; });
    switch (activation) {
      case Activation::kSilu:
        return body(activated<Activation::kSilu>());
      case Activation::kRelu:
        return body(activated<Activation::kRelu>());
      case Activation::kGeluTanh:
        return body(activated<Activation::kGeluTanh>());
      default:
        return body(activated<Activation::kGelu>());
    }
  }

 private:
  template <Activation kKind>
  __device__ auto activated() const {
    return [first = first_activated](float x, int column) {
      const float y = activate(kKind, x);
      return column < first ? x : y;
    };
  }
};

}  // namespace ft::cuda::sm90
