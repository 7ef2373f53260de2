// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear_int8 on Hopper.
#include "cuda/skinny_linear_sm90.cuh"

namespace ft::cuda {

void skinny_linear_int8_sm90(const char* op, const Tensor& out, const Tensor& x,
                             const Tensor& weight, const Tensor& scale, const Tensor* bias,
                             std::optional<Activation> gate, int64_t stream) {
  dispatch_half(x, [&](auto type) {
    using T = decltype(type);
    sm90::run<T, int8_t>(op, out, x, weight, &scale, bias, gate, stream);
  });
}

}  // namespace ft::cuda
