// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper, with weights in the type of x.
#include "cuda/skinny_linear_sm90.cuh"

namespace ft::cuda {
namespace {

// Products of warpgroups take as long for few rows of the weight as for many, and a warpgroup that
// has half of the columns needs many of them: at 1,024 they are slower, at 4,096 faster.
constexpr int kWideGroups = 4;  // of a block, at least
constexpr int kWideColumns = 2048;

}  // namespace

bool is_wide_sm90(const Tensor& weight, bool is_gated) {
  return has_warpgroup_products() && weight.shape[0] % (is_gated ? 4 : 2) == 0 &&
         weight.shape[1] >= kWideColumns &&
         sm90::Share(weight.shape[0]).most_groups() >= kWideGroups;
}

void skinny_linear_sm90(const SkinnyProduct& product) {
  if (is_wide_sm90(product.weight, product.is_gated)) return skinny_wide_sm90(product);
  dispatch_half(product.x, [&](auto type) {
    using T = decltype(type);
    sm90::run<T, T>(product);
  });
}

}  // namespace ft::cuda
