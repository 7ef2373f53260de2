// SPDX-License-Identifier: BSD-3-Clause
// The checks and the launch that activated_linear and gated_linear share.
#pragma once

#include "cuda/fused_linear_sm90.cuh"
#include "cuda/launch.h"

namespace ft::cuda::fused {

constexpr int kIn16Bytes = 8;  // elements, what the copy engine counts in

// The arguments of an op; bias is null for none.
struct Operands {
  const Tensor &out, &x, &weight;
  const Tensor* bias;
};

// Of x and of the weight. S has the fewest that a kernel of the op takes.
template <typename S>
bool columns_fit(const Tensor& matrix) {
  return matrix.shape[1] >= S::kMinColumns && matrix.shape[1] % kUnitColumns == 0;
}

template <typename S>
bool rows_fit(const Tensor& weight) {
  return weight.shape[0] % (S::kParts * kIn16Bytes) == 0;
}

// Whether this GPU multiplies with `weight`.
template <typename S>
bool fits(const Tensor& weight) {
  return weight.is_cuda && has_half_type(weight) && columns_fit<S>(weight) && rows_fit<S>(weight) &&
         has_warpgroup_products();
}

template <typename S>
void check(const char* op, const Operands& of) {
  const Tensor &out = of.out, &x = of.x, &weight = of.weight;
  check_that(op, "out", has_warpgroup_products(), "is on a GPU without the products of warpgroups");
  check_shape(op, "x", x, {-1, -1});
  check_that(op, "x", has_half_type(x), "is neither bfloat16 nor float16");
  static const std::string columns = "has rows of fewer than " + std::to_string(S::kMinColumns) +
                                     " elements, or of no multiple of " +
                                     std::to_string(kUnitColumns);
  check_that(op, "x", columns_fit<S>(x), columns.c_str());
  check_shape(op, "weight", weight, {-1, x.shape[1]});
  check_dtype(op, "weight", weight, x.dtype);
  static const std::string rows =
      "has a number of rows that is no multiple of " + std::to_string(S::kParts * kIn16Bytes);
  check_that(op, "weight", rows_fit<S>(weight), rows.c_str());
  check_shape(op, "out", out, {x.shape[0], weight.shape[0] / S::kParts});
  check_dtype(op, "out", out, x.dtype);
  check_16_byte_rows(op, "x", x, kIn16Bytes);
  check_16_byte_rows(op, "weight", weight, kIn16Bytes);
  check_16_byte_rows(op, "out", out, kIn16Bytes);
  if (of.bias == nullptr) return;
  check_shape(op, "bias", *of.bias, {weight.shape[0]});
  check_dtype(op, "bias", *of.bias, x.dtype);
  check_on_gpu(op, "bias", *of.bias);
  check_contiguous(op, "bias", *of.bias);
}

inline int num_clusters() { return num_multiprocessors() / kClusterBlocks; }

template <typename S>
void launch(const char* op, const Operands& of, int64_t stream) {
  constexpr auto kernel = fused_linear_sm90_kernel<S>;
  [[maybe_unused]] static const bool once = (allow_shared(op, kernel, S::kSharedBytes), true);
  const Product<S> product{box_map(op, of.x, kTokens, kUnitColumns, 1),
                           box_map(op, of.weight, S::kHalfRows, kUnitColumns, 1),
                           result_map(op, of.out, kWarpTokens, S::kStripColumns),
                           of.bias == nullptr ? nullptr : of.bias->as<typename S::T>(),
                           static_cast<int>(of.out.shape[0]),
                           static_cast<int>(of.out.shape[1]),
                           static_cast<int>(of.x.shape[1] / kUnitColumns)};
  const int clusters = std::min(product.tiles(), num_clusters());
  launch_clusters(op, kernel, kClusterBlocks, static_cast<unsigned>(clusters * kClusterBlocks),
                  kThreads, S::kSharedBytes, stream, product);
}

// With tiles of `Tiles<T, kKind>`. The arguments have been checked, and none is empty.
template <template <typename T, Activation kKind> typename Tiles>
void run(const char* op, const Operands& of, Activation activation, int64_t stream) {
  dispatch_half(of.x, [&](auto type) {
    dispatch_activation(activation, [&](auto kind) {
      launch<Tiles<decltype(type), decltype(kind)::value>>(op, of, stream);
    });
  });
}

}  // namespace ft::cuda::fused
