// SPDX-License-Identifier: BSD-3-Clause
// What a warp of skinny_linear_sm90.cuh computes of a stage: its eighth of the columns, 32 bytes of
// every row of the weight, against the same columns of x.
#pragma once

#include "cuda/skinny_ring_sm90.cuh"
#include "device/skinny.cuh"

namespace ft::cuda::sm90 {

#ifdef FT_HOPPER

// Byte of piece `piece`, of 16 bytes, in row `row` of a swizzled box.
__device__ __forceinline__ int swizzled(int row, int piece) {
  return row / kGroupRows * kGroupBytes + row % kGroupRows * kBoxRowBytes +
         ((piece ^ row % kGroupRows) << 4);
}

// Operands of the products of 16 columns that a unit takes a warp, by the type of the weight.
template <typename T, typename W>
struct Operands {
  static constexpr int kProducts = 1;

  // 16 rows of the weight's box at `box`.
  __device__ static void load_weight(uint32_t (&a)[4], uint32_t box, int first, int /*product*/) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    device::load_matrices(a, box + swizzled(first + lane % 16, warp % 4 * 2 + lane / 16));
  }

  // Tokens [0, 8 * kGroups) of x in boxes of as many rows.
  template <int kGroups>
  __device__ static void load_x(uint32_t (&b)[kGroups][2], const char* x, int /*product*/) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t box = device::shared_address(x) + warp / 4 * kGroups * kGroupBytes;
    const int piece = warp % 4 * 2 + lane / 8 % 2;
    if constexpr (kGroups == 1) {
      device::load_matrices(b[0], box + swizzled(lane % 8, piece));
    } else {
#pragma unroll
      for (int pair = 0; pair < kGroups / 2; ++pair) {
        uint32_t four[4];
        device::load_matrices(four, box + swizzled((pair * 2 + lane / 16) * 8 + lane % 8, piece));
        b[2 * pair][0] = four[0], b[2 * pair][1] = four[1];
        b[2 * pair + 1][0] = four[2], b[2 * pair + 1][1] = four[3];
      }
    }
  }
};

// A lane holds four neighbouring weights of a row, so the columns of a product are taken in another
// order, four for every lane of a row; x follows.
template <typename T>
struct Operands<T, int8_t> {
  static constexpr int kProducts = 2;

  __device__ static void load_weight(uint32_t (&a)[4], uint32_t box, int first, int product) {
    constexpr uint32_t kFirstTwoApart = 0x3120;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t pieces[2];
    device::load_matrices(pieces, box + swizzled(first + lane % 16, warp % 4 * 2 + product));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t four = __byte_perm(pieces[half], 0, kFirstTwoApart);
      a[half] = device::widen_even(four, T{});
      a[half + 2] = device::widen_even(four >> 8, T{});
    }
  }

  template <int kGroups>
  __device__ static void load_x(uint32_t (&b)[kGroups][2], const char* x, int product) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const char* const box = x + warp / 2 * kGroups * kGroupBytes;
    const int piece = warp % 2 * 4 + product * 2 + lane % 4 / 2;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const uint2 four = *reinterpret_cast<const uint2*>(
          box + swizzled(group * 8 + lane / 4, piece) + lane % 2 * 8);
      b[group][0] = four.x, b[group][1] = four.y;
    }
  }
};

// A warp's sums over its columns of a tile: [16 rows, 8 tokens, register].
template <int kTokens>
using Accumulators = float[kTileRows / 16][kTokens / 8][4];

// Adds a stage whose tile has `rows` rows; of what lies behind them the sums are of no use.
template <typename T, typename W, int kTokens, typename R>
__device__ void multiply_stage(Accumulators<kTokens>& acc, const R& ring, int stage, int rows) {
  using O = Operands<T, W>;
  constexpr int kGroups = kTokens / 8, kHalves = kTileRows / 16;
  const int warp = threadIdx.x / 32;
  const uint32_t box = device::shared_address(ring.weight(stage)) + warp / 4 * rows * kBoxRowBytes;
#pragma unroll
  for (int product = 0; product < O::kProducts; ++product) {
    uint32_t b[kGroups][2];
    O::template load_x<kGroups>(b, ring.x(stage), product);
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      uint32_t a[4];
      O::load_weight(a, box, half * 16, product);
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        device::multiply(acc[half][group], a, b[group][0], b[group][1], T{});
      }
    }
  }
  __syncwarp();
  if (threadIdx.x % 32 == 0) device::barrier_arrive(&ring.empty[stage]);
}

#endif  // FT_HOPPER

}  // namespace ft::cuda::sm90
