// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper: out^T = weight x^T, one block per multiprocessor for its share of the
// rows. Two threads fill a ring with units of 32 rows by 128 columns and the columns of x, the
// first weights while the kernel before still runs. Each of eight warps multiplies 16 columns of a
// unit; behind a tile of rows their sums are added in an order that depends on the columns alone,
// so that a token's result does not depend on the other tokens.
#include "cuda/launch.h"
#include "cuda/skinny_linear.h"
#include "cuda/skinny_ring_sm90.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace sm90 {
namespace {

// Where the sums go, [tokens, columns]. With two parts of the weight, of `columns` rows each, the
// first one gates the second: out = gate(first) * second.
template <typename T, typename Out, int kParts>
struct Result {
  Out* out;
  const T* bias;  // [columns * kParts] or null
  int tokens, columns;
  Activation gate;

#ifdef FT_HOPPER
  // Of a tile whose rows are [first, first + rows) of all parts: this thread's are those of row
  // thread % 32, of tokens thread / 32 and every eighth behind it.
  template <int kGroups>
  __device__ void store(const float (&sums)[kGroups], int first, int rows) const {
    const int lane = threadIdx.x % 32, part_rows = rows / kParts;
    const int part = lane / part_rows, column = first / kParts + lane % part_rows;
    const bool inside = part < kParts && column < columns;
    const float add =
        inside && bias != nullptr ? device::to_float(bias[part * columns + column]) : 0.0f;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      float value = sums[group] + add;
      if constexpr (kParts > 1) {
        const float gated = __shfl_down_sync(0xFFFFFFFFu, value, part_rows);
        value = activate(gate, value) * gated;
      }
      const int token = group * 8 + threadIdx.x / 32;
      if (inside && part == 0 && token < tokens) {
        out[int64_t{token} * columns + column] = device::from_float<Out>(value);
      }
    }
  }
#endif
};

#ifdef FT_HOPPER

__device__ __forceinline__ void consumers_wait() {
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
}

// A warp's sums over its columns of a tile: [half of the rows, 8 tokens, register].
template <int kTokens>
using Accumulators = float[2][kTokens / 8][4];

// Adds up the warps' sums, in their order. Afterwards a thread holds row thread % 32 of tokens
// thread / 32, thread / 32 + 8 and so on.
template <int kTokens>
__device__ void add_warps(float (&sums)[kTokens / 8], const Accumulators<kTokens>& acc,
                          float* buffer) {
  constexpr int kGroups = (kTokens < kSumTokens ? kTokens : kSumTokens) / 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto place = [&](int of, int group) {
    return buffer + (of * kGroups + group) * 8 * kSumStride;
  };
#pragma unroll
  for (int first = 0; first < kTokens / 8; first += kGroups) {
#pragma unroll
    for (int i = 0; i < 8 * kGroups; ++i) {
      const int row = i % 8 / 4 * 16 + i / 2 % 2 * 8 + lane / 4, token = lane % 4 * 2 + i % 2;
      place(warp, i / 8)[token * kSumStride + row] = acc[i % 8 / 4][first + i / 8][i % 4];
    }
    consumers_wait();
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      float sum = 0.0f;
#pragma unroll
      for (int of = 0; of < kConsumers / 32; ++of)
        sum += place(of, group)[warp * kSumStride + lane];
      sums[first + group] = sum;
    }
    consumers_wait();
  }
}

// This warp's 16 columns of a stage.
template <typename T, int kTokens>
__device__ void multiply_stage(Accumulators<kTokens>& acc, const Ring<kTokens>& ring, int stage,
                               int rows) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int box = warp / 4, chunk = warp % 4 * 2;  // of 16 bytes
  const auto swizzled = [](int row, int at) {
    return row % 8 * kBoxRowBytes + ((at ^ row % 8) << 4);
  };
  const uint32_t weight = device::shared_address(ring.weight(stage)) + box * rows * kBoxRowBytes;
  uint32_t a[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 16 + lane % 16;
    device::load_matrices(a[half],
                          weight + row / 8 * kGroupBytes + swizzled(row, chunk + lane / 16));
  }
  const uint32_t x = device::shared_address(ring.x(stage)) + box * kTokens * kBoxRowBytes;
  uint32_t b[kTokens / 8][2];
  if constexpr (kTokens == 8) {
    device::load_matrices(b[0], x + swizzled(lane % 8, chunk + lane / 8 % 2));
  } else {
#pragma unroll
    for (int pair = 0; pair < kTokens / 16; ++pair) {
      uint32_t four[4];
      device::load_matrices(four, x + (pair * 2 + lane / 16) * kGroupBytes +
                                      swizzled(lane % 8, chunk + lane / 8 % 2));
      b[2 * pair][0] = four[0], b[2 * pair][1] = four[1];
      b[2 * pair + 1][0] = four[2], b[2 * pair + 1][1] = four[3];
    }
  }
  __syncwarp();
  if (lane == 0) device::barrier_arrive(&ring.empty[stage]);
#pragma unroll
  for (int group = 0; group < kTokens / 8; ++group) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      device::multiply(acc[half][group], a[half], b[group][0], b[group][1], T{});
    }
  }
}

template <typename T, typename Out, int kTokens, int kParts>
__device__ void consume(const Ring<kTokens>& ring, const Tiles& tiles, int units,
                        const Result<T, Out, kParts>& result) {
  Position<Ring<kTokens>::kStages> at;
  for (int tile = 0; tile < tiles.count; ++tile) {
    const int rows = tiles.num_rows(tile);
    Accumulators<kTokens> acc = {};
    for (int unit = 0; unit < units; ++unit, at.advance()) {
      device::barrier_wait(&ring.full[at.stage], at.phase);
      multiply_stage<T, kTokens>(acc, ring, at.stage, rows);
    }
    float sums[kTokens / 8];
    add_warps<kTokens>(sums, acc, ring.sums);
    result.store(sums, tiles.first_row(tile), rows);
  }
}

#endif  // FT_HOPPER

template <typename T, typename Out, int kTokens, int kParts>
__global__ void __launch_bounds__(kThreads, 1)
    skinny_linear_sm90_kernel(const __grid_constant__ WeightMaps weight,
                              const __grid_constant__ CUtensorMap x,
                              const Result<T, Out, kParts> result, int units, Share share) {
#ifdef FT_HOPPER
  extern __shared__ char shared[];
  const Ring<kTokens> ring(shared);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Ring<kTokens>::kStages; ++stage) {
      device::barrier_init(&ring.full[stage], 1);
      device::barrier_init(&ring.empty[stage], kConsumers / 32);
    }
    device::barrier_init_fence();
  }
  __syncthreads();
  const Tiles tiles(share, blockIdx.x);
  if (threadIdx.x < kConsumers) {
    device::wait_for_predecessor();
    consume<T>(ring, tiles, units, result);
  } else if (threadIdx.x == kConsumers) {
    load_weights(ring, WeightUnits<kParts>{weight, tiles, units});
  } else if (threadIdx.x == kConsumers + 32) {
    load_x(ring, x, tiles.count, units);
  }
#endif
}

template <typename T, typename Out, int kTokens, int kParts>
void run(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
         const Tensor* bias, Activation gate, int64_t stream) {
  const int64_t groups = (weight.shape[0] + kGroupRows - 1) / kGroupRows;
  const int64_t blocks = std::min<int64_t>(groups, num_multiprocessors());
  const Share share{static_cast<int>(groups / blocks), static_cast<int>(groups % blocks)};
  constexpr auto kernel = skinny_linear_sm90_kernel<T, Out, kTokens, kParts>;
  constexpr int kSharedBytes = Ring<kTokens>::kSharedBytes;
  [[maybe_unused]] static const bool once = (allow_shared(op, kernel, kSharedBytes), true);
  WeightMaps maps;
  for (int groups = 1; groups <= kTileGroups; ++groups) {
    maps.of_groups[groups - 1] =
        box_map(op, weight, groups * kGroupRows / kParts, kBoxColumns, kBoxes, kParts);
  }
  const Result<T, Out, kParts> result{out.as<Out>(), bias == nullptr ? nullptr : bias->as<T>(),
                                      static_cast<int>(x.shape[0]), static_cast<int>(out.shape[1]),
                                      gate};
  launch(op, kernel, static_cast<unsigned>(blocks), kThreads, kSharedBytes, stream, maps,
         box_map(op, x, kTokens, kBoxColumns, kBoxes), result,
         (weight.shape[1] + kUnitColumns - 1) / kUnitColumns, share);
}

template <typename T, typename Out, int kParts>
void run(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
         const Tensor* bias, Activation gate, int64_t stream) {
  const int64_t tokens = x.shape[0];
  const auto with = [&](auto most) {
    run<T, Out, most, kParts>(op, out, x, weight, bias, gate, stream);
  };
  if (tokens <= 8) return with(std::integral_constant<int, 8>{});
  if (tokens <= 16) return with(std::integral_constant<int, 16>{});
  if (tokens <= 32) return with(std::integral_constant<int, 32>{});
  with(std::integral_constant<int, 64>{});
}

}  // namespace
}  // namespace sm90

void skinny_linear_sm90(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor* bias, std::optional<Activation> gate, int64_t stream) {
  dispatch_half(x, [&](auto type) {
    using T = decltype(type);
    constexpr Activation kNone{};
    if (gate) return sm90::run<T, T, 2>(op, out, x, weight, bias, *gate, stream);
    if (out.dtype == DType::kFloat32) {
      return sm90::run<T, float, 1>(op, out, x, weight, bias, kNone, stream);
    }
    sm90::run<T, T, 1>(op, out, x, weight, bias, kNone, stream);
  });
}

}  // namespace ft::cuda
