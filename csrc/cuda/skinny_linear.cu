// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear and skinny_logits: the checks.
#include "cuda/skinny_linear.h"

#include "cuda/launch.h"
#include "cuda/launchers.h"

namespace ft::cuda {
namespace {

void check_rows_aligned(const char* op, const char* argument, const Tensor& tensor) {
  check_on_gpu(op, argument, tensor);
  check_rows(op, argument, tensor);
  check_aligned(op, argument, tensor);
  check_that(op, argument, tensor.strides[0] % 8 == 0,
             "has rows that do not start at multiples of 16 bytes");
}

void run(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
         const Tensor* bias, int64_t stream) {
  check_shape(op, "x", x, {-1, -1});
  check_that(op, "x", x.dtype == DType::kBFloat16 || x.dtype == DType::kFloat16,
             "is neither bfloat16 nor float16");
  check_that(op, "x", x.shape[0] <= kMaxSkinnyTokens, "has more than 64 rows");
  check_that(op, "x", x.shape[1] % 64 == 0, "has a number of columns that is no multiple of 64");
  check_shape(op, "weight", weight, {-1, x.shape[1]});
  check_dtype(op, "weight", weight, x.dtype);
  check_rows_aligned(op, "x", x);
  check_rows_aligned(op, "weight", weight);
  check_shape(op, "out", out, {x.shape[0], weight.shape[0]});
  check_contiguous(op, "out", out);
  if (bias != nullptr) {
    check_shape(op, "bias", *bias, {weight.shape[0]});
    check_dtype(op, "bias", *bias, x.dtype);
    check_contiguous(op, "bias", *bias);
  }
  if (x.shape[0] == 0 || weight.shape[0] == 0) return;
  skinny_linear_sm90(op, out, x, weight, bias, stream);
}

}  // namespace

void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias, int64_t stream) {
  check_dtype("skinny_linear", "out", out, x.dtype);
  run("skinny_linear", out, x, weight, bias ? &*bias : nullptr, stream);
}

void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight, int64_t stream) {
  check_dtype("skinny_logits", "out", out, DType::kFloat32);
  run("skinny_logits", out, x, weight, nullptr, stream);
}

}  // namespace ft::cuda
