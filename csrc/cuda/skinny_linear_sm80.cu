// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear before Hopper, with weights in the type of x.
#include "cuda/skinny_linear.h"
#include "cuda/skinny_mma.cuh"

namespace ft::cuda {

void skinny_linear_sm80(const SkinnyProduct& product) {
  dispatch_half(product.x, [&](auto type) {
    using T = decltype(type);
    skinny::run<T, T>(product);
  });
}

}  // namespace ft::cuda
