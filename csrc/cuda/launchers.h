// SPDX-License-Identifier: BSD-3-Clause
// The CUDA launchers. Shapes: the ops of the same name; the last argument is the raw stream.
#pragma once

#include <cstdint>
#include <optional>

#include "core/tensor.h"

namespace ft::cuda {

void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, double eps, int64_t stream);
void add_rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, int64_t stream);
void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias, int64_t stream);
void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight, int64_t stream);
void skinny_linear_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale, const std::optional<Tensor>& bias, int64_t stream);
void skinny_logits_int8(const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor& scale, int64_t stream);

// What older architectures run, on any.
namespace sm80 {
void skinny_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                   const std::optional<Tensor>& bias, int64_t stream);
void skinny_logits(const Tensor& out, const Tensor& x, const Tensor& weight, int64_t stream);
}  // namespace sm80

}  // namespace ft::cuda
