// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper, with weights in the type of x.
#include "cuda/skinny_linear_sm90.cuh"

namespace ft::cuda {

void skinny_linear_sm90(const SkinnyProduct& product) {
  dispatch_half(product.x, [&](auto type) {
    using T = decltype(type);
    sm90::run<T, T>(product);
  });
}

}  // namespace ft::cuda
