// SPDX-License-Identifier: BSD-3-Clause
// gated_linear: its tiles.
#include "cuda/fused_linear.cuh"
#include "cuda/launchers.h"

namespace ft::cuda {
namespace {

template <typename T, Activation kKind>
using Tiles = fused::Shape<T, kKind, 2, 192, 1>;
using AnyTiles = Tiles<__half, Activation{}>;

}  // namespace

bool gated_linear_fits(const Tensor& weight) { return fused::fits<AnyTiles>(weight); }

void gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight, const std::string& kind,
                  int64_t stream) {
  const char* const op = "gated_linear";
  const Activation activation = activation_of(op, kind);
  const fused::Operands operands{out, x, weight, nullptr};
  fused::check<AnyTiles>(op, operands);
  if (out.shape[0] == 0 || out.shape[1] == 0) return;
  fused::run<Tiles>(op, operands, activation, stream);
}

}  // namespace ft::cuda
