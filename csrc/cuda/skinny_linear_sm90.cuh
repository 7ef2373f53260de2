// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper: out^T = weight x^T, one block per multiprocessor for its share of the
// rows. Two threads fill a ring with units of some rows by 256 bytes and the columns of x, the
// first weights while the kernel before still runs. Each of eight warps multiplies an eighth of the
// columns; behind a tile of rows their sums are added in an order that depends on the columns
// alone, so that a token's result does not depend on the other tokens.
#pragma once

#include "cuda/launch.h"
#include "cuda/skinny_linear.h"
#include "cuda/skinny_warp_sm90.cuh"
#include "device/vec.cuh"

namespace ft::cuda::sm90 {

// Where the sums go, [tokens, columns]. With two parts of the weight, of `columns` rows each, the
// first one gates the second: out = gate(first) * second.
template <typename T, typename Out, int kParts>
struct Result {
  Out* out;
  const float* scale;  // [columns * kParts] or null
  const T* bias;       // [columns * kParts] or null
  int tokens, columns;
  Activation gate;

#ifdef FT_HOPPER
  // Of a tile whose rows are [first, first + rows) of all parts; sum_of(row) by all rows of a warp.
  template <typename SumOf>
  __device__ void store(int token, int first, int rows, SumOf sum_of) const {
    const int part_rows = rows / kParts;
    for (int row = threadIdx.x % 32; row < part_rows; row += 32) {
      const int column = first / kParts + row;
      if (token >= tokens || column >= columns) return;
      float value = finished(sum_of(row), column);
      if constexpr (kParts > 1) {
        value = activate(gate, value) * finished(sum_of(row + part_rows), columns + column);
      }
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

__device__ __forceinline__ void consumers_wait() {
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
}

// Adds up the warps' sums of a tile, in their order, and stores them; a warp has a token at a time.
template <int kTokens, typename R, typename Result>
__device__ void finish_tile(const Accumulators<kTokens>& acc, const R& ring, const Result& result,
                            int first, int rows) {
  constexpr int kWarps = kConsumers / 32, kGroups = R::kRoundTokens / 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto place = [&](int of, int token) {
    return ring.sums + (of * R::kRoundTokens + token) * R::kSumStride;
  };
#pragma unroll
  for (int round = 0; round < kTokens / 8; round += kGroups) {
#pragma unroll
    for (int half = 0; half < kTileRows / 16; ++half) {
#pragma unroll
      for (int i = 0; i < 4 * kGroups; ++i) {
        const int row = half * 16 + i / 2 % 2 * 8 + lane / 4, group = i / 4;
        place(warp, group * 8 + lane % 4 * 2 + i % 2)[row] = acc[half][round + group][i % 4];
      }
    }
    consumers_wait();
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      result.store((round + group) * 8 + warp, first, rows, [&](int row) {
        float sum = 0.0f;
#pragma unroll
        for (int of = 0; of < kWarps; ++of) sum += place(of, group * 8 + warp)[row];
        return sum;
      });
    }
    consumers_wait();
  }
}

template <typename T, typename W, int kTokens, typename R, typename Result>
__device__ void consume(const R& ring, const Tiles& tiles, int units, const Result& result) {
  Position<R::kStages> at;
  for (int tile = 0; tile < tiles.count; ++tile) {
    const int rows = tiles.num_rows(tile);
    Accumulators<kTokens> acc = {};
    for (int unit = 0; unit < units; ++unit, at.advance()) {
      device::barrier_wait(&ring.full[at.stage], at.phase);
      multiply_stage<T, W, kTokens>(acc, ring, at.stage, rows);
    }
    finish_tile<kTokens>(acc, ring, result, tiles.first_row(tile), rows);
  }
}

#endif  // FT_HOPPER

template <typename T, typename W, typename Out, int kTokens, int kParts>
__global__ void __launch_bounds__(kThreads, 1)
    skinny_linear_sm90_kernel(const __grid_constant__ WeightMaps weight,
                              const __grid_constant__ CUtensorMap x,
                              const Result<T, Out, kParts> result, int units, Share share) {
#ifdef FT_HOPPER
  using R = Ring<W, kTokens>;
  extern __shared__ char shared[];
  const R ring(shared);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < R::kStages; ++stage) {
      device::barrier_init(&ring.full[stage], 1);
      device::barrier_init(&ring.empty[stage], kConsumers / 32);
    }
    device::barrier_init_fence();
  }
  __syncthreads();
  const Tiles tiles(share, blockIdx.x);
  if (threadIdx.x < kConsumers) {
    device::wait_for_predecessor();
    consume<T, W, kTokens>(ring, tiles, units, result);
  } else if (threadIdx.x == kConsumers) {
    load_weights<kParts>(ring, weight, tiles, units);
  } else if (threadIdx.x == kConsumers + 32) {
    load_x(ring, x, tiles.count, units);
  }
#endif
}

// What is multiplied; the arguments have been checked. Null for none: scale, bias.
struct Problem {
  const char* op;
  const Tensor &out, &x, &weight;
  const Tensor *scale, *bias;
  Activation gate;
  int64_t stream;
};

template <typename T, typename W, typename Out, int kTokens, int kParts>
void run_tokens(const Problem& problem) {
  const int64_t groups = (problem.weight.shape[0] + kGroupRows - 1) / kGroupRows;
  const int64_t blocks = std::min<int64_t>(groups, num_multiprocessors());
  const Share share{static_cast<int>(groups / blocks), static_cast<int>(groups % blocks)};
  using R = Ring<W, kTokens>;
  constexpr auto kernel = skinny_linear_sm90_kernel<T, W, Out, kTokens, kParts>;
  [[maybe_unused]] static const bool once =
      (allow_shared(problem.op, kernel, R::kSharedBytes), true);
  WeightMaps maps;
  for (int i = 0; i < kTileGroups; ++i) {
    maps.of_groups[i] = box_map(problem.op, problem.weight, (i + 1) * kGroupRows / kParts,
                                R::kBoxColumns, kBoxes, kParts);
  }
  const Result<T, Out, kParts> result{problem.out.as<Out>(),
                                      problem.scale ? problem.scale->as<float>() : nullptr,
                                      problem.bias ? problem.bias->as<T>() : nullptr,
                                      static_cast<int>(problem.x.shape[0]),
                                      static_cast<int>(problem.out.shape[1]),
                                      problem.gate};
  launch(problem.op, kernel, static_cast<unsigned>(blocks), kThreads, R::kSharedBytes,
         problem.stream, maps, box_map(problem.op, problem.x, kTokens, kXBoxColumns, R::kXBoxes),
         result, (problem.weight.shape[1] + R::kUnitColumns - 1) / R::kUnitColumns, share);
}

template <typename T, typename W, typename Out, int kParts>
void run_parts(const Problem& problem) {
  const int64_t tokens = problem.x.shape[0];
  if (tokens <= 8) return run_tokens<T, W, Out, 8, kParts>(problem);
  if (tokens <= 16) return run_tokens<T, W, Out, 16, kParts>(problem);
  if (tokens <= 32) return run_tokens<T, W, Out, 32, kParts>(problem);
  run_tokens<T, W, Out, 64, kParts>(problem);
}

template <typename T, typename W>
void run(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
         const Tensor* scale, const Tensor* bias, std::optional<Activation> gate, int64_t stream) {
  const Problem problem{op, out, x, weight, scale, bias, gate.value_or(Activation{}), stream};
  if (gate) return run_parts<T, W, T, 2>(problem);
  if (out.dtype == DType::kFloat32) return run_parts<T, W, float, 1>(problem);
  run_parts<T, W, T, 1>(problem);
}

}  // namespace ft::cuda::sm90
