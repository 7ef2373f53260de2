// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper, with weights in the type of x.
#include "cuda/skinny_linear_sm90.cuh"

namespace ft::cuda {
namespace {

// Products of warpgroups take as long for few rows of the weight as for many, and a warpgroup that
// has half of the columns needs many of them: at 1,024 they are slower, at 4,096 faster.
constexpr int kWideGroups = 4;  // of a block, at least
constexpr int kWideColumns = 2048;

// By the weights alone: a row of x has the same result in any number of rows.
bool is_wide(const SkinnyProduct& product) {
  return has_warpgroup_products() && product.out.shape[1] % 2 == 0 &&
         product.weight.shape[1] >= kWideColumns &&
         sm90::Share(product.weight.shape[0]).most_groups() >= kWideGroups;
}

}  // namespace

void skinny_linear_sm90(const SkinnyProduct& product) {
  if (is_wide(product)) return skinny_wide_sm90(product);
  dispatch_half(product.x, [&](auto type) {
    using T = decltype(type);
    sm90::run<T, T>(product);
  });
}

}  // namespace ft::cuda
