// SPDX-License-Identifier: BSD-3-Clause
// tile_linear: the checks, and the choice of the tiles.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "cuda/skinny_linear.h"
#include "cuda/tile_linear_sm90.cuh"

namespace ft::cuda {
namespace {

using namespace tile;

constexpr int64_t kMostTokens = 2 * kTokens;  // more of them cuBLAS multiplies faster
constexpr int64_t kIn16Bytes = 8;             // elements, what the copy engine counts in

// Blocks that run at a time, one on each multiprocessor; those of a cluster in one of their groups.
template <typename S>
int num_resident() {
  if constexpr (S::kSlices == 1) return num_multiprocessors();
  static const int blocks = [] {
    constexpr auto kernel = tile_linear_sm90_kernel<S>;
    allow_shared("tile_linear", kernel, kMostSharedBytes);
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {S::kSlices, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = S::kSlices;
    config.blockDim = kThreads;
    config.dynamicSmemBytes = kMostSharedBytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    check_cuda("tile_linear", cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
    return clusters * S::kSlices;
  }();
  return blocks;
}

template <typename S>
int64_t num_blocks(const Tensor& weight, int64_t tokens) {
  return divide_up(weight.shape[0], S::kRows) * divide_up(tokens, kTokens) * S::kSlices;
}

template <typename S>
bool fits(const Tensor& weight, int64_t tokens) {
  const int64_t columns = S::kSlices * kUnitColumns, units = weight.shape[1] / columns;
  return weight.shape[1] % columns == 0 && units <= kMostUnits &&
         S::shared_bytes(static_cast<int>(units)) <= kMostSharedBytes &&
         num_blocks<S>(weight, tokens) <= num_resident<S>();
}

// Calls body with the first shape that fits, which is the one of most blocks; whether there is one.
template <typename T, int kSlices, typename Body, int... kRows>
bool with_rows(const Tensor& weight, int64_t tokens, std::integer_sequence<int, kRows...>,
               const Body& body) {
  const auto attempt = [&](auto shape) {
    if (!fits<decltype(shape)>(weight, tokens)) return false;
    body(shape);
    return true;
  };
  return (attempt(Shape<T, kRows, kSlices>{}) || ...);
}

template <typename T, typename Body>
bool with_shape(const Tensor& weight, int64_t tokens, const Body& body) {
  using Rows = std::integer_sequence<int, 16, 32, 48, 64>;
  if (weight.shape[1] <= kMostUnits * kUnitColumns) {
    return with_rows<T, 1>(weight, tokens, Rows{}, body);
  }
  return with_rows<T, 4>(weight, tokens, Rows{}, body);
}

template <typename S>
void launch_tile(const SkinnyProduct& product) {
  constexpr auto kernel = tile_linear_sm90_kernel<S>;
  [[maybe_unused]] static const bool once =
      (allow_shared(product.op, kernel, kMostSharedBytes), true);
  const int units = static_cast<int>(product.weight.shape[1] / kUnitColumns / S::kSlices);
  launch_clusters(product.op, kernel, S::kSlices,
                  static_cast<unsigned>(num_blocks<S>(product.weight, product.x.shape[0])),
                  kThreads, S::shared_bytes(units), product.stream,
                  box_map(product.op, product.x, kTokens, kUnitColumns, 1),
                  box_map(product.op, product.weight, S::kRows, kUnitColumns, units),
                  tile::Result<typename S::T>(product), units);
}

// The types are of one size, so it is the same for both.
bool has_shape(const Tensor& weight) {
  return weight.is_cuda && has_half_type(weight) && weight.shape[0] % kIn16Bytes == 0 &&
         has_warpgroup_products() && with_shape<__half>(weight, kMostTokens, [](auto) {});
}

void run(const SkinnyProduct& product) {
  const Tensor &x = product.x, &weight = product.weight;
  check_product(product);
  check_dtype(product.op, "out", product.out, x.dtype);
  check_dtype(product.op, "weight", weight, x.dtype);
  check_that(product.op, "x", x.shape[0] <= kMostTokens, "has more than 128 rows");
  check_that(product.op, "weight", has_shape(weight),
             "has no tiles, one for each multiprocessor, on this GPU");
  if (x.shape[0] == 0 || weight.shape[0] == 0) return;
  dispatch_half(x, [&](auto type) {
    with_shape<decltype(type)>(weight, x.shape[0],
                               [&](auto shape) { launch_tile<decltype(shape)>(product); });
  });
}

}  // namespace

bool tile_linear_fits(const Tensor& weight) { return has_shape(weight); }

void tile_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                 const std::optional<Tensor>& bias, int64_t stream) {
  run({"tile_linear", out, x, weight, bias, stream});
}

void tile_activated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                           const std::optional<Tensor>& bias, const std::string& kind,
                           int64_t stream) {
  SkinnyProduct product{"tile_activated_linear", out, x, weight, bias, stream};
  product.activate(kind, 0);
  run(product);
}

}  // namespace ft::cuda
