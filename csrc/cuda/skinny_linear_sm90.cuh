// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper: out^T = weight x^T, one block per multiprocessor for its share of the
// rows. Two threads fill a ring with units of some rows by some columns and the columns of x, the
// first weights while the kernel before still runs. The warps multiply slices of the columns;
// behind a tile of rows the slices' sums are added in an order that depends on the columns alone,
// so that a token's result does not depend on the other tokens.
#pragma once

#include <type_traits>

#include "cuda/skinny_result_sm90.cuh"
#include "cuda/skinny_warp_sm90.cuh"

namespace ft::cuda::sm90 {

#ifdef FT_HOPPER

// The rows of a tile that a lane finishes, of every part every 32nd, with their scales and biases:
// those of few tokens, who leave registers for them, are there before the sums are.
template <typename S, int kParts>
struct LaneRows {
  static constexpr int kCount = (S::kTileRows / kParts + 31) / 32;
  int first_column, num_columns;  // of the tile
  RowValues values[kParts][kCount];

  template <typename Result>
  __device__ void load(const Result& result, int first, int rows) {
    first_column = first / kParts;
    num_columns = min(rows / kParts, result.columns - first_column);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int before = part * result.columns + first_column;
        values[part][i] = result.row_values(before + row(i), before + num_columns);
      }
    }
  }
  __device__ static int row(int i) { return threadIdx.x % 32 + 32 * i; }
};

// Adds up the slices' sums of a tile, in their order, and stores them; a warp has a token at a
// time.
template <typename T, typename S, int kTiles, int kParts, typename Result>
__device__ void finish_tile(const Accumulators<S, kTiles>& acc, const Ring<S>& ring,
                            const Part<S>& part, const Result& result,
                            const LaneRows<S, kParts>& lane_rows, int part_rows) {
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
    for (int begin = 0; begin < S::kRoundTokens; begin += kWarps) {
      const int token = begin + warp, of_all = round * S::kRoundTokens + token;
      if (token >= S::kRoundTokens || of_all >= result.tokens) continue;
      const auto sum_of = [&](int row) {
        float sum = 0.0f;
#pragma unroll
        for (int slice = 0; slice < S::kSlices; slice += 2) {
          sum += place(slice, token)[row] + place(slice + 1, token)[row];
        }
        return sum;
      };
      constexpr int kCount = LaneRows<S, kParts>::kCount;
      float sums[kParts][kCount];
#pragma unroll
      for (int i = 0; i < kParts * kCount; ++i) {
        const int of_part = i / kCount, row = of_part * part_rows + lane_rows.row(i % kCount);
        const RowValues& values = lane_rows.values[of_part][i % kCount];
        sums[of_part][i % kCount] = values.finished(sum_of(row), kSumFactor<T, typename S::W>);
      }
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int row = lane_rows.row(i);
        if (row >= lane_rows.num_columns) break;
        result.put(of_all, lane_rows.first_column + row, sums[0][i], sums[kParts - 1][i]);
      }
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

template <typename T, typename S, int kParts, typename Result>
__device__ void consume(const Ring<S>& ring, const Tiles& tiles, int units, const Result& result) {
  const Part<S> part;
  device::RingPosition at;
  int last = -1;
  for (int tile = 0; tile < tiles.count; ++tile) {
    const int rows = tiles.num_rows(tile);
    LaneRows<S, kParts> lane_rows;
    if constexpr (!S::kSharesTokens) lane_rows.load(result, tiles.first_row(tile), rows);
    with_constant<S::kWarpTiles>(part.num_tiles(rows), [&](auto constant) {
      constexpr int kTiles = decltype(constant)::value;
      Accumulators<S, kTiles> acc = {};
      const Places<T, S> places(ring, part, rows, result.tokens);
#pragma unroll 1  // free_stage is for the head of a loop
      for (int unit = 0; unit < units; ++unit, at.advance(ring.stages)) {
        free_stage(ring, last);
        device::barrier_wait(&ring.full[at.stage], at.phase);
        multiply_stage<T, S, kTiles>(acc, places, ring.weight(at.stage));
        last = at.stage;
      }
      if constexpr (S::kSharesTokens) lane_rows.load(result, tiles.first_row(tile), rows);
      finish_tile<T, S, kTiles, kParts>(acc, ring, part, result, lane_rows, rows / kParts);
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
  if (threadIdx.x == 0) ring.init(kWarps);
  __syncthreads();
  const Tiles tiles(share, blockIdx.x);
  if (threadIdx.x < kConsumers) {
    device::wait_for_predecessor();
    consume<T, S, kParts>(ring, tiles, sources.units(), result);
  } else if (threadIdx.x == kConsumers) {
    load_weights<kParts>(ring, sources, tiles, result.tokens);
  } else if (threadIdx.x == kConsumers + 32) {
    load_x(ring, sources, tiles.count);
  }
#endif
}

// Launches the one kernel that there is for these types.
template <typename T, typename S, typename Out, int kParts, typename Kernel>
void launch_shape(const SkinnyProduct& product, const Share& share, Kernel* kernel, int threads) {
  [[maybe_unused]] static const bool once =
      (allow_shared(product.op, kernel, S::kSharedBytes), true);
  launch(product.op, kernel, static_cast<unsigned>(share.blocks), static_cast<unsigned>(threads),
         S::kSharedBytes, product.stream, sources_of<S, kParts>(product, share),
         Result<T, Out, kParts>(product), share);
}

template <typename T, typename S, typename Out, int kParts>
void run_shape(const SkinnyProduct& product, Share share) {
  share.divide(S::kTileRows);
  launch_shape<T, S, Out, kParts>(product, share, skinny_linear_sm90_kernel<T, S, Out, kParts>,
                                  kThreads);
}

// Few tokens leave room for more of the weight in a stage; of narrow shares, few rows, it holds
// more columns, since every stage costs a wait.
template <typename T, typename W, typename Out, int kParts, int kTokens>
void run_tokens(const SkinnyProduct& product) {
  constexpr int kGroups = kTokens <= 8 ? 12 : 8, kSteps = kTokens <= 16 ? 2 : 1, kSlices = 8;
  const Share share(product.weight.shape[0]);
  if (share.most_groups() <= kNarrowGroups) {
    return run_shape<T, Shape<W, kTokens, kNarrowTileGroups, 2 * kSteps, kSlices>, Out, kParts>(
        product, share);
  }
  run_shape<T, Shape<W, kTokens, kGroups, kSteps, kSlices>, Out, kParts>(product, share);
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
