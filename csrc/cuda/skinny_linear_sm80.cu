// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear before Hopper, with weights in the type of x.
#include "cuda/skinny_linear.h"
#include "cuda/skinny_mma.cuh"

namespace ft::cuda {

void skinny_linear_sm80(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor* bias, std::optional<Activation> gate, int64_t stream) {
  dispatch_half(x, [&](auto type) {
    using T = decltype(type);
    skinny::run<T, T>(op, out, x, weight, nullptr, bias, gate, stream);
  });
}

}  // namespace ft::cuda
