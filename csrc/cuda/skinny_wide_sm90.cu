// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper where every block has many rows of the weight, in the type of x.
#include "cuda/skinny_wide_sm90.cuh"

namespace ft::cuda {

void skinny_wide_sm90(const SkinnyProduct& product) {
  dispatch_half(product.x, [&](auto type) {
    using T = decltype(type);
    if (product.is_gated) return sm90::run_wide<T, T, 2>(product);
    if (product.out.dtype == DType::kFloat32) return sm90::run_wide<T, float, 1>(product);
    sm90::run_wide<T, T, 1>(product);
  });
}

}  // namespace ft::cuda
