// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear_int8, its other forms and skinny_logits_int8: weights of one byte, packed
// (device/int8.cuh), that are unpacked between shared memory and the product; the scale of a row
// multiplies its sum.
#include "cuda/launchers.h"
#include "cuda/skinny_linear.h"
#include "cuda/skinny_mma.cuh"

namespace ft::cuda {
namespace {

void run(SkinnyProduct product, const Tensor& scale, DType out_dtype) {
  const char* const op = product.op;
  product.scale = &scale;
  check_dtype(op, "out", product.out, out_dtype);
  check_dtype(op, "weight", product.weight, DType::kUInt8);
  check_skinny(product);
  check_shape(op, "scale", scale, {product.weight.shape[0]});
  check_dtype(op, "scale", scale, DType::kFloat32);
  check_on_gpu(op, "scale", scale);
  check_contiguous(op, "scale", scale);
  if (product.x.shape[0] == 0 || product.weight.shape[0] == 0) return;
  if (fits_sm90(product.weight)) return skinny_linear_int8_sm90(product);
  dispatch_half(product.x, [&](auto type) {
    using T = decltype(type);
    skinny::run<T, uint8_t>(product);
  });
}

void run_activated(SkinnyProduct product, const Tensor& scale, const std::string& kind,
                   int64_t first) {
  product.activate(kind, first);
  run(product, scale, product.x.dtype);
}

void run_gated(SkinnyProduct product, const Tensor& scale, const std::string& kind) {
  product.gate(kind);
  run(product, scale, product.x.dtype);
}

}  // namespace

void skinny_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale, const std::optional<Tensor>& bias, int64_t stream) {
  run({"skinny_linear_int8", out, x, weight, bias, stream}, scale, x.dtype);
}

void skinny_activated_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                                  const Tensor& scale, const std::optional<Tensor>& bias,
                                  const std::string& kind, int64_t first, int64_t stream) {
  run_activated({"skinny_activated_linear_int8", out, x, weight, bias, stream}, scale, kind, first);
}

void skinny_gated_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                              const Tensor& scale, const std::optional<Tensor>& bias,
                              const std::string& kind, int64_t stream) {
  run_gated({"skinny_gated_linear_int8", out, x, weight, bias, stream}, scale, kind);
}

void skinny_logits_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale, int64_t stream) {
  run({"skinny_logits_int8", out, x, weight, {}, stream}, scale, DType::kFloat32);
}

}  // namespace ft::cuda
