// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear, its gated form and skinny_logits: the checks, and the choice of the
// implementation.
#include "cuda/skinny_linear.h"

#include "cuda/launch.h"
#include "cuda/launchers.h"

namespace ft::cuda {
namespace {

constexpr int kRowBytesSm90 = 128;

void check_operand(const char* op, const char* argument, const Tensor& tensor,
                   int64_t in_16_bytes) {
  check_on_gpu(op, argument, tensor);
  check_rows(op, argument, tensor);
  check_aligned(op, argument, tensor);
  check_that(op, argument, tensor.strides[0] % in_16_bytes == 0,
             "has rows that do not start at multiples of 16 bytes");
  check_that(op, argument, tensor.shape[1] % in_16_bytes == 0,
             "has rows whose length is no multiple of 16 bytes");
}

// By the weight alone: a row of x has the same result in any number of rows.
SkinnyLinear* best_for(const Tensor& weight) {
  return fits_sm90(weight) ? skinny_linear_sm90 : skinny_linear_sm80;
}

void run(const char* op, SkinnyLinear* implementation, DType out_dtype, const Tensor& out,
         const Tensor& x, const Tensor& weight, const Tensor* bias, std::optional<Activation> gate,
         int64_t stream) {
  check_dtype(op, "out", out, out_dtype);
  check_dtype(op, "weight", weight, x.dtype);
  check_skinny(op, out, x, weight, bias, gate.has_value());
  if (x.shape[0] == 0 || weight.shape[0] == 0) return;
  implementation(op, out, x, weight, bias, gate, stream);
}

}  // namespace

bool fits_sm90(const Tensor& weight) {
  const int64_t row_bytes = weight.shape[1] * (weight.dtype == DType::kInt8 ? 1 : 2);
  return has_programmatic_launch() && row_bytes % kRowBytesSm90 == 0;
}

void check_skinny(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                  const Tensor* bias, bool is_gated) {
  check_shape(op, "x", x, {-1, -1});
  check_that(op, "x", x.dtype == DType::kBFloat16 || x.dtype == DType::kFloat16,
             "is neither bfloat16 nor float16");
  check_that(op, "x", x.shape[0] <= kMaxSkinnyTokens, "has more than 64 rows");
  check_shape(op, "weight", weight, {-1, x.shape[1]});
  check_operand(op, "x", x, 8);
  check_operand(op, "weight", weight, weight.dtype == DType::kInt8 ? 16 : 8);
  check_that(op, "weight", !is_gated || weight.shape[0] % 2 == 0, "has an odd number of rows");
  check_shape(op, "out", out, {x.shape[0], weight.shape[0] / (is_gated ? 2 : 1)});
  check_on_gpu(op, "out", out);
  check_contiguous(op, "out", out);
  if (bias == nullptr) return;
  check_shape(op, "bias", *bias, {weight.shape[0]});
  check_dtype(op, "bias", *bias, x.dtype);
  check_on_gpu(op, "bias", *bias);
  check_contiguous(op, "bias", *bias);
}

void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias, int64_t stream) {
  run("skinny_linear", best_for(weight), x.dtype, out, x, weight, bias ? &*bias : nullptr, {},
      stream);
}

void skinny_gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                         const std::optional<Tensor>& bias, const std::string& kind,
                         int64_t stream) {
  constexpr const char* kOp = "skinny_gated_linear";
  run(kOp, best_for(weight), x.dtype, out, x, weight, bias ? &*bias : nullptr,
      activation_of(kOp, kind), stream);
}

void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight, int64_t stream) {
  run("skinny_logits", best_for(weight), DType::kFloat32, out, x, weight, nullptr, {}, stream);
}

namespace sm80 {

void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias, int64_t stream) {
  run("skinny_linear", skinny_linear_sm80, x.dtype, out, x, weight, bias ? &*bias : nullptr, {},
      stream);
}

void skinny_gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                         const std::optional<Tensor>& bias, const std::string& kind,
                         int64_t stream) {
  constexpr const char* kOp = "skinny_gated_linear";
  run(kOp, skinny_linear_sm80, x.dtype, out, x, weight, bias ? &*bias : nullptr,
      activation_of(kOp, kind), stream);
}

void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight, int64_t stream) {
  run("skinny_logits", skinny_linear_sm80, DType::kFloat32, out, x, weight, nullptr, {}, stream);
}

}  // namespace sm80

}  // namespace ft::cuda
