// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear, its other forms and skinny_logits: the checks, and the choice of the
// implementation.
#include "cuda/skinny_linear.h"

#include "cuda/launch.h"
#include "cuda/launchers.h"

namespace ft::cuda {
namespace {

constexpr int kRowBytesSm90 = 128;

using Choose = SkinnyLinear*(const SkinnyProduct& product);

// By the weights alone: a row of x has the same result in any number of rows.
SkinnyLinear* best(const SkinnyProduct& product) {
  const bool fits = fits_sm90(product.weight) &&
                    (product.second_weight == nullptr || fits_sm90(*product.second_weight));
  return fits ? skinny_linear_sm90 : skinny_linear_sm80;
}

SkinnyLinear* older(const SkinnyProduct&) { return skinny_linear_sm80; }

void run(Choose* choose, const SkinnyProduct& product, DType out_dtype) {
  check_dtype(product.op, "out", product.out, out_dtype);
  check_dtype(product.op, "weight", product.weight, product.x.dtype);
  check_skinny(product);
  if (product.x.shape[0] == 0 || product.weight.shape[0] == 0) return;
  choose(product)(product);
}

void run_activated(Choose* choose, SkinnyProduct product, const std::string& kind, int64_t first) {
  product.activate(kind, first);
  run(choose, product, product.x.dtype);
}

void run_gated(Choose* choose, SkinnyProduct product, const std::string& kind) {
  product.gate(kind);
  run(choose, product, product.x.dtype);
}

void run_sum(Choose* choose, SkinnyProduct product, const Tensor& second_x,
             const Tensor& second_weight) {
  product.second_x = &second_x;
  product.second_weight = &second_weight;
  run(choose, product, product.x.dtype);
}

// x and weight, or the second ones of a sum.
void check_operands(const SkinnyProduct& product, const char* x_name, const Tensor& x,
                    const char* weight_name, const Tensor& weight) {
  check_that(product.op, x_name, has_half_type(x), "is neither bfloat16 nor float16");
  check_shape(product.op, weight_name, weight, {-1, x.shape[1]});
  check_16_byte_rows(product.op, x_name, x, 8);
  check_16_byte_rows(product.op, weight_name, weight, weight.dtype == DType::kUInt8 ? 16 : 8);
}

}  // namespace

bool fits_sm90(const Tensor& weight) {
  const int64_t row_bytes = weight.shape[1] * (weight.dtype == DType::kUInt8 ? 1 : 2);
  return has_programmatic_launch() && row_bytes % kRowBytesSm90 == 0;
}

void check_skinny(const SkinnyProduct& product) {
  check_product(product);
  check_that(product.op, "x", product.x.shape[0] <= kMaxSkinnyTokens, "has more than 64 rows");
}

void check_product(const SkinnyProduct& product) {
  const char* const op = product.op;
  const Tensor &out = product.out, &x = product.x, &weight = product.weight;
  check_shape(op, "x", x, {-1, -1});
  check_operands(product, "x", x, "weight", weight);
  check_that(op, "weight", !product.is_gated || weight.shape[0] % 2 == 0,
             "has an odd number of rows");
  check_that(op, "first", product.first_activated >= 0 && product.first_activated <= out.shape[1],
             "is no column of the result");
  check_shape(op, "out", out, {x.shape[0], weight.shape[0] / (product.is_gated ? 2 : 1)});
  check_on_gpu(op, "out", out);
  check_contiguous(op, "out", out);
  if (product.second_x != nullptr) {
    check_shape(op, "second_x", *product.second_x, {x.shape[0], -1});
    check_dtype(op, "second_x", *product.second_x, x.dtype);
    check_dtype(op, "second_weight", *product.second_weight, weight.dtype);
    check_operands(product, "second_x", *product.second_x, "second_weight", *product.second_weight);
    check_shape(op, "second_weight", *product.second_weight,
                {weight.shape[0], product.second_x->shape[1]});
  }
  if (product.bias == nullptr) return;
  check_shape(op, "bias", *product.bias, {weight.shape[0]});
  check_dtype(op, "bias", *product.bias, x.dtype);
  check_on_gpu(op, "bias", *product.bias);
  check_contiguous(op, "bias", *product.bias);
}

void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias, int64_t stream) {
  run(best, {"skinny_linear", out, x, weight, bias, stream}, x.dtype);
}

void skinny_activated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                             const std::optional<Tensor>& bias, const std::string& kind,
                             int64_t first, int64_t stream) {
  run_activated(best, {"skinny_activated_linear", out, x, weight, bias, stream}, kind, first);
}

void skinny_gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                         const std::optional<Tensor>& bias, const std::string& kind,
                         int64_t stream) {
  run_gated(best, {"skinny_gated_linear", out, x, weight, bias, stream}, kind);
}

void skinny_linear_sum(const Tensor& out, const Tensor& x, const Tensor& weight,
                       const Tensor& second_x, const Tensor& second_weight,
                       const std::optional<Tensor>& bias, int64_t stream) {
  run_sum(best, {"skinny_linear_sum", out, x, weight, bias, stream}, second_x, second_weight);
}

void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight, int64_t stream) {
  run(best, {"skinny_logits", out, x, weight, {}, stream}, DType::kFloat32);
}

namespace sm80 {

void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias, int64_t stream) {
  run(older, {"skinny_linear", out, x, weight, bias, stream}, x.dtype);
}

void skinny_activated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                             const std::optional<Tensor>& bias, const std::string& kind,
                             int64_t first, int64_t stream) {
  run_activated(older, {"skinny_activated_linear", out, x, weight, bias, stream}, kind, first);
}

void skinny_gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                         const std::optional<Tensor>& bias, const std::string& kind,
                         int64_t stream) {
  run_gated(older, {"skinny_gated_linear", out, x, weight, bias, stream}, kind);
}

void skinny_linear_sum(const Tensor& out, const Tensor& x, const Tensor& weight,
                       const Tensor& second_x, const Tensor& second_weight,
                       const std::optional<Tensor>& bias, int64_t stream) {
  run_sum(older, {"skinny_linear_sum", out, x, weight, bias, stream}, second_x, second_weight);
}

void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight, int64_t stream) {
  run(older, {"skinny_logits", out, x, weight, {}, stream}, DType::kFloat32);
}

}  // namespace sm80

}  // namespace ft::cuda
