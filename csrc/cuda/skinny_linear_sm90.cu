// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper, with weights in the type of x.
#include "cuda/skinny_linear_sm90.cuh"

namespace ft::cuda {

void skinny_linear_sm90(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor* bias, std::optional<Activation> gate, int64_t stream) {
  dispatch_half(x, [&](auto type) {
    using T = decltype(type);
    sm90::run<T, T>(op, out, x, weight, nullptr, bias, gate, stream);
  });
}

}  // namespace ft::cuda
