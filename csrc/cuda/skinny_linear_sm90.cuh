// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper: out^T = weight x^T, one block per multiprocessor for its share of the
// rows. Two threads fill a ring with units of some rows by some columns and the columns of x, the
// first weights while the kernel before still runs. Each of eight pairs of warps multiplies an
// eighth of the columns; behind a tile of rows their sums are added in an order that depends on the
// columns alone, so that a token's result does not depend on the other tokens.
#pragma once

#include <type_traits>

#include "cuda/launch.h"
#include "cuda/skinny_linear.h"
#include "cuda/skinny_warp_sm90.cuh"
#include "device/vec.cuh"

namespace ft::cuda::sm90 {

// Where the sums go, [tokens, columns]. With two parts of the weight, of `columns` rows each, the
// first one gates the second: out = activation(first) * second.
template <typename T, typename Out, int kParts>
struct Result {
  Out* out;
  const float* scale;  // [columns * kParts] or null
  const T* bias;       // [columns * kParts] or null
  int tokens, columns;
  Activation activation;
  int first_activated;  // column, behind the last one for none

#ifdef FT_HOPPER
  // Of a tile whose rows are [first, first + rows) of all parts; sum_of(row) by all rows of a warp.
  template <typename SumOf>
  __device__ void store(int token, int first, int rows, SumOf sum_of) const {
    const int part_rows = rows / kParts;
    for (int row = threadIdx.x % 32; row < part_rows; row += 32) {
      const int column = first / kParts + row;
      if (token >= tokens || column >= columns) return;
      float value = finished(sum_of(row), column);
      if (column >= first_activated) value = activate(activation, value);
      if constexpr (kParts > 1) value *= finished(sum_of(row + part_rows), columns + column);
      out[int64_t{token} * columns + column] = device::from_float<Out>(value);
    }
  }

 private:
  __device__ float finished(float sum, int row) const {
    if (scale != nullptr) sum *= scale[row];
    return bias == nullptr ? sum : sum + device::to_float(bias[row]);
  }
#endif
};

#ifdef FT_HOPPER

// Adds up the slices' sums of a tile, in their order, and stores them; a warp has a token at a
// time.
template <typename S, int kTiles, typename Result>
__device__ void finish_tile(const Accumulators<S, kTiles>& acc, const Ring<S>& ring,
                            const Part<S>& part, const Result& result, int first, int rows) {
  constexpr int kRoundGroups = S::kRoundTokens / 8 / (S::kSharesTokens ? 2 : 1);  // of a warp
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto place = [&](int slice, int token) {
    return ring.sums + (slice * S::kRoundTokens + token) * S::kSumStride;
  };
#pragma unroll
  for (int round = 0; round < S::kTokens / S::kRoundTokens; ++round) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int row = part.tile(i) * 16 + lane / 4;
#pragma unroll
      for (int group = 0; group < kRoundGroups; ++group) {
        const int token = part.group(group) * 8 + lane % 4 * 2;
        const float (&sum)[4] = acc[i][round * kRoundGroups + group];
        place(part.slice, token)[row] = sum[0];
        place(part.slice, token + 1)[row] = sum[1];
        place(part.slice, token)[row + 8] = sum[2];
        place(part.slice, token + 1)[row + 8] = sum[3];
      }
    }
    device::named_barrier(1, kConsumers);
#pragma unroll
    for (int token = warp; token < S::kRoundTokens; token += kWarps) {
      result.store(round * S::kRoundTokens + token, first, rows, [&](int row) {
        float sum = 0.0f;
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) sum += place(slice, token)[row];
        return sum;
      });
    }
    device::named_barrier(1, kConsumers);
  }
}

// Calls body with `count`, in [1, kMost], as a constant.
template <int kMost, typename Body>
__device__ __forceinline__ void with_constant(int count, const Body& body) {
  if constexpr (kMost > 1) {
    if (count < kMost) return with_constant<kMost - 1>(count, body);
  }
  body(std::integral_constant<int, kMost>{});
}

template <typename T, typename S, typename Result>
__device__ void consume(const Ring<S>& ring, const Tiles& tiles, int units, const Result& result) {
  const Part<S> part;
  Position at;
  for (int tile = 0; tile < tiles.count; ++tile) {
    const int rows = tiles.num_rows(tile);
    with_constant<S::kWarpTiles>(part.num_tiles(rows), [&](auto constant) {
      constexpr int kTiles = decltype(constant)::value;
      Accumulators<S, kTiles> acc = {};
      for (int unit = 0; unit < units; ++unit, at.advance(ring.stages)) {
        device::barrier_wait(&ring.full[at.stage], at.phase);
        multiply_stage<T, S, kTiles>(acc, ring, part, at.stage, rows, result.tokens);
      }
      finish_tile<S, kTiles>(acc, ring, part, result, tiles.first_row(tile), rows);
    });
  }
}

#endif  // FT_HOPPER

template <typename T, typename S, typename Out, int kParts>
__global__ void __launch_bounds__(kThreads, 1)
    skinny_linear_sm90_kernel(const __grid_constant__ Sources sources,
                              const Result<T, Out, kParts> result, Share share) {
#ifdef FT_HOPPER
  extern __shared__ char shared[];
  const Ring<S> ring(shared, share, result.tokens);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < ring.stages; ++stage) {
      device::barrier_init(&ring.full[stage], 1);
      device::barrier_init(&ring.empty[stage], kWarps);
    }
    device::barrier_init_fence();
  }
  __syncthreads();
  const Tiles tiles(share, blockIdx.x);
  if (threadIdx.x < kConsumers) {
    device::wait_for_predecessor();
    consume<T>(ring, tiles, sources.units(), result);
  } else if (threadIdx.x == kConsumers) {
    load_weights<kParts>(ring, sources, tiles, result.tokens);
  } else if (threadIdx.x == kConsumers + 32) {
    load_x(ring, sources, tiles.count);
  }
#endif
}

// One product of a sum.
template <typename S, int kParts>
Source source_of(const char* op, const Tensor& x, const Tensor& weight, int fewer_groups) {
  Source source;
  for (int i = 0; i < 2; ++i) {
    source.weight[i] = box_map(op, weight, (fewer_groups + i) * kGroupRows / kParts, S::kBoxColumns,
                               S::kBoxes, kParts);
  }
  source.x = box_map(op, x, static_cast<int>(x.shape[0]), kXBoxColumns, S::kXBoxes);
  source.units = static_cast<int>((weight.shape[1] + S::kUnitColumns - 1) / S::kUnitColumns);
  return source;
}

template <typename T, typename S, typename Out, int kParts>
void run_shape(const SkinnyProduct& product, Share share) {
  constexpr auto kernel = skinny_linear_sm90_kernel<T, S, Out, kParts>;
  [[maybe_unused]] static const bool once =
      (allow_shared(product.op, kernel, S::kSharedBytes), true);
  share.tiles = (share.most_groups() + S::kGroups - 1) / S::kGroups;
  Sources sources{};
  sources.fewer_groups = share.tile_groups();
  sources.of[0] = source_of<S, kParts>(product.op, product.x, product.weight, share.tile_groups());
  if (product.second_x != nullptr) {
    sources.of[1] = source_of<S, kParts>(product.op, *product.second_x, *product.second_weight,
                                         share.tile_groups());
  }
  const Result<T, Out, kParts> result{product.out.as<Out>(),
                                      product.scale ? product.scale->as<float>() : nullptr,
                                      product.bias ? product.bias->as<T>() : nullptr,
                                      static_cast<int>(product.x.shape[0]),
                                      static_cast<int>(product.out.shape[1]),
                                      product.activation.value_or(Activation{}),
                                      first_activated(product)};
  launch(product.op, kernel, static_cast<unsigned>(share.blocks), kThreads, S::kSharedBytes,
         product.stream, sources, result, share);
}

// Few tokens leave room for more of the weight in a stage; of narrow shares, few rows, it holds
// more columns, since every stage costs a wait.
template <typename T, typename W, typename Out, int kParts, int kTokens>
void run_tokens(const SkinnyProduct& product) {
  constexpr int kGroups = kTokens <= 8 ? 12 : 8, kSteps = kTokens <= 16 ? 2 : 1;
  const Share share(product.weight.shape[0]);
  if (share.most_groups() <= kNarrowGroups) {
    return run_shape<T, Shape<W, kTokens, kNarrowTileGroups, 2 * kSteps>, Out, kParts>(product,
                                                                                       share);
  }
  run_shape<T, Shape<W, kTokens, kGroups, kSteps>, Out, kParts>(product, share);
}

template <typename T, typename W, typename Out, int kParts>
void run_parts(const SkinnyProduct& product) {
  const int64_t tokens = product.x.shape[0];
  if (tokens <= 8) return run_tokens<T, W, Out, kParts, 8>(product);
  if (tokens <= 16) return run_tokens<T, W, Out, kParts, 16>(product);
  if (tokens <= 32) return run_tokens<T, W, Out, kParts, 32>(product);
  run_tokens<T, W, Out, kParts, 64>(product);
}

template <typename T, typename W>
void run(const SkinnyProduct& product) {
  if (product.is_gated) return run_parts<T, W, T, 2>(product);
  if (product.out.dtype == DType::kFloat32) return run_parts<T, W, float, 1>(product);
  run_parts<T, W, T, 1>(product);
}

}  // namespace ft::cuda::sm90
