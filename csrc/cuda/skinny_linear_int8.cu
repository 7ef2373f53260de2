// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear_int8, its gated form and skinny_logits_int8: weights of one byte, widened between
// shared memory and the product; the scale of a row multiplies its sum.
#include "cuda/launchers.h"
#include "cuda/skinny_linear.h"
#include "cuda/skinny_mma.cuh"

namespace ft::cuda {
namespace {

void run(const char* op, DType out_dtype, const Tensor& out, const Tensor& x, const Tensor& weight,
         const Tensor& scale, const Tensor* bias, std::optional<Activation> gate, int64_t stream) {
  check_dtype(op, "out", out, out_dtype);
  check_dtype(op, "weight", weight, DType::kInt8);
  check_skinny(op, out, x, weight, bias, gate.has_value());
  check_shape(op, "scale", scale, {weight.shape[0]});
  check_dtype(op, "scale", scale, DType::kFloat32);
  check_on_gpu(op, "scale", scale);
  check_contiguous(op, "scale", scale);
  if (x.shape[0] == 0 || weight.shape[0] == 0) return;
  if (fits_sm90(weight)) {
    return skinny_linear_int8_sm90(op, out, x, weight, scale, bias, gate, stream);
  }
  dispatch_half(x, [&](auto type) {
    using T = decltype(type);
    skinny::run<T, int8_t>(op, out, x, weight, &scale, bias, gate, stream);
  });
}

}  // namespace

void skinny_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale, const std::optional<Tensor>& bias, int64_t stream) {
  run("skinny_linear_int8", x.dtype, out, x, weight, scale, bias ? &*bias : nullptr, {}, stream);
}

void skinny_gated_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                              const Tensor& scale, const std::optional<Tensor>& bias,
                              const std::string& kind, int64_t stream) {
  constexpr const char* kOp = "skinny_gated_linear_int8";
  run(kOp, x.dtype, out, x, weight, scale, bias ? &*bias : nullptr, activation_of(kOp, kind),
      stream);
}

void skinny_logits_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale, int64_t stream) {
  run("skinny_logits_int8", DType::kFloat32, out, x, weight, scale, nullptr, {}, stream);
}

}  // namespace ft::cuda
