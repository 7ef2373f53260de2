// SPDX-License-Identifier: BSD-3-Clause
// gated_linear: the checks and the launch.
#include "cuda/gated_linear_sm90.cuh"
#include "cuda/launchers.h"
#include "cuda/tensor_map.h"

namespace ft::cuda {
namespace {

using namespace gated;

constexpr int kPiece = 8;  // elements that the copy engine counts in: 16 bytes

void check_operand(const char* op, const char* argument, const Tensor& tensor) {
  check_on_gpu(op, argument, tensor);
  check_rows(op, argument, tensor);
  check_aligned(op, argument, tensor);
  check_that(op, argument, tensor.strides[0] % kPiece == 0,
             "has rows that do not start at multiples of 16 bytes");
}

void check(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight) {
  check_that(op, "out", has_warpgroup_products(), "is on a GPU without the products of warpgroups");
  check_shape(op, "x", x, {-1, -1});
  check_that(op, "x", x.dtype == DType::kBFloat16 || x.dtype == DType::kFloat16,
             "is neither bfloat16 nor float16");
  check_that(op, "x", x.shape[1] >= kMinColumns && x.shape[1] % kUnitColumns == 0,
             "has rows of fewer than 384 elements, or of no multiple of 64");
  check_shape(op, "weight", weight, {-1, x.shape[1]});
  check_dtype(op, "weight", weight, x.dtype);
  check_that(op, "weight", weight.shape[0] % (2 * kPiece) == 0,
             "has a number of rows that is no multiple of 16");
  check_shape(op, "out", out, {x.shape[0], weight.shape[0] / 2});
  check_dtype(op, "out", out, x.dtype);
  check_operand(op, "x", x);
  check_operand(op, "weight", weight);
  check_operand(op, "out", out);
}

template <typename T, Activation kKind>
void run(const char* op, const Product& product, int64_t stream) {
  constexpr auto kernel = gated_linear_sm90_kernel<T, kKind>;
  [[maybe_unused]] static const bool once = (allow_shared(op, kernel, kSharedBytes), true);
  const int clusters = std::min(product.tiles(), num_multiprocessors() / kClusterBlocks);
  launch_clusters(op, kernel, kClusterBlocks, static_cast<unsigned>(clusters * kClusterBlocks),
                  kThreads, kSharedBytes, stream, product);
}

template <typename T>
void run_kind(const char* op, Activation kind, const Product& product, int64_t stream) {
  switch (kind) {
    case Activation::kSilu:
      return run<T, Activation::kSilu>(op, product, stream);
    case Activation::kRelu:
      return run<T, Activation::kRelu>(op, product, stream);
    case Activation::kGeluTanh:
      return run<T, Activation::kGeluTanh>(op, product, stream);
    default:
      return run<T, Activation::kGelu>(op, product, stream);
  }
}

}  // namespace

void gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight, const std::string& kind,
                  int64_t stream) {
  const char* const op = "gated_linear";
  const Activation activation = activation_of(op, kind);
  check(op, out, x, weight);
  if (out.shape[0] == 0 || out.shape[1] == 0) return;
  const Product product{box_map(op, x, kTokens, kUnitColumns, 1),
                        box_map(op, weight, kTileColumns, kUnitColumns, 1),
                        result_map(op, out, kWarpTokens, kTileColumns),
                        static_cast<int>(out.shape[0]),
                        static_cast<int>(out.shape[1]),
                        static_cast<int>(x.shape[1] / kUnitColumns)};
  dispatch_half(x, [&](auto type) { run_kind<decltype(type)>(op, activation, product, stream); });
}

}  // namespace ft::cuda
