// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear_int8 on Hopper.
#include "cuda/skinny_linear_sm90.cuh"

namespace ft::cuda {

void skinny_linear_int8_sm90(const SkinnyProduct& product) {
  dispatch_half(product.x, [&](auto type) {
    using T = decltype(type);
    sm90::run<T, uint8_t>(product);
  });
}

}  // namespace ft::cuda
