// SPDX-License-Identifier: BSD-3-Clause
// activated_linear: the choice of the tiles.
#include "cuda/fused_linear.cuh"
#include "cuda/launchers.h"

namespace ft::cuda {
namespace {

template <typename T, Activation kKind>
using Wide = fused::Shape<T, kKind, 1, 192, 1>;
// Where there are too few columns for a piece beside each unit.
template <typename T, Activation kKind>
using ShortWide = fused::Shape<T, kKind, 1, 192, 2>;
template <typename T, Activation kKind>
using Narrow = fused::Shape<T, kKind, 1, 128, 1>;

using AnyWide = Wide<__half, Activation{}>;
using AnyShortWide = ShortWide<__half, Activation{}>;
using AnyNarrow = Narrow<__half, Activation{}>;

// How long the cluster that has most tiles multiplies, in rows of the weight.
template <typename S>
int64_t rows_in_turn(const Tensor& out) {
  fused::Product<S> product;
  product.tokens = static_cast<int>(out.shape[0]);
  product.columns = static_cast<int>(out.shape[1]);
  const int clusters = fused::num_clusters();
  return int64_t{S::kRows} * ((product.tiles() + clusters - 1) / clusters);
}

// Wide tiles read less of shared memory for each product; but what clusters do at the end while
// others have no tile left takes longer with them.
bool takes_narrow(const Tensor& out, const Tensor& x) {
  constexpr int kNarrowPercent = 115;  // time of a narrow tile's row, relative to a wide one's
  return x.shape[1] >= AnyNarrow::kMinColumns &&
         rows_in_turn<AnyNarrow>(out) * kNarrowPercent < rows_in_turn<AnyWide>(out) * 100;
}

}  // namespace

bool activated_linear_fits(const Tensor& weight) { return fused::fits<AnyShortWide>(weight); }

void activated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                      const std::optional<Tensor>& bias, const std::string& kind, int64_t stream) {
  const char* const op = "activated_linear";
  const Activation activation = activation_of(op, kind);
  const fused::Operands operands{out, x, weight, bias ? &*bias : nullptr};
  fused::check<AnyShortWide>(op, operands);
  if (out.shape[0] == 0 || out.shape[1] == 0) return;
  if (takes_narrow(out, x)) return fused::run<Narrow>(op, operands, activation, stream);
  if (x.shape[1] < AnyWide::kMinColumns) {
    return fused::run<ShortWide>(op, operands, activation, stream);
  }
  fused::run<Wide>(op, operands, activation, stream);
}

}  // namespace ft::cuda
