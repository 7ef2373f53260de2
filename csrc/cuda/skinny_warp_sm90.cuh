// SPDX-License-Identifier: BSD-3-Clause
// What a warp of skinny_linear_sm90.cuh computes of a stage: of every step its slice of the
// columns, of the weight and of x.
#pragma once

#include "cuda/skinny_ring_sm90.cuh"
#include "device/int8.cuh"
#include "device/skinny.cuh"

namespace ft::cuda::sm90 {

#ifdef FT_HOPPER

// Byte of piece `piece`, of 16 bytes, in row `row` of a swizzled box.
__device__ __forceinline__ int swizzled(int row, int piece) {
  return row / kGroupRows * kGroupBytes + row % kGroupRows * kBoxRowBytes +
         ((piece ^ row % kGroupRows) << 4);
}

// The same of x, whose boxes of a unit lie one behind the other, with as many rows as there are
// tokens: `line` counts their rows.
__device__ __forceinline__ int swizzled_line(int line, int piece) {
  return line * kBoxRowBytes + ((piece ^ line % kGroupRows) << 4);
}

// What a warp takes of every step.
template <typename S>
struct Part {
  int slice = threadIdx.x / 32 / S::kSides, side = threadIdx.x / 32 % S::kSides;

  // The 16 rows of a tile, and the 8 tokens, that are the warp's i-th.
  __device__ int tile(int i) const { return S::kSharesTokens ? i : S::kSides * i + side; }
  __device__ int group(int i) const { return S::kSharesTokens ? 2 * i + side : i; }
  // How many of a tile's 16 rows are the warp's, at least one: sums of rows that are not there do
  // no harm.
  __device__ int num_tiles(int rows) const {
    const int tiles = (rows + 15) / 16;
    return S::kSharesTokens ? tiles : max(1, (tiles + S::kSides - 1 - side) / S::kSides);
  }
  // The first column of product `product` in a step, and of its box the piece of 16 bytes.
  __device__ int column(int product) const { return slice * S::kSliceColumns + product * 16; }
  __device__ int weight_box() const { return column(0) / S::kBoxColumns; }
  __device__ int weight_piece(int product) const {
    return column(product) % S::kBoxColumns * static_cast<int>(sizeof(typename S::W)) / 16;
  }
  __device__ int x_box() const { return column(0) / kXBoxColumns; }
  __device__ int x_piece(int product) const { return column(product) % kXBoxColumns / 8; }
};

// What the sums of products of Operands are multiplied with.
template <typename T, typename W>
constexpr float kSumFactor = 1.0f;
template <typename T>
constexpr float kSumFactor<T, uint8_t> = device::Int8<T>::kSumFactor;

// Operands of products of 16 columns by the type of the weight; rows and tokens as in Part.
template <typename T, typename S, typename W>
struct Operands {
  static constexpr int kProducts = 1;  // whose weights one load brings

  // 16 rows of the weight's box at `box`.
  __device__ static void load_weight(uint32_t (&a)[kProducts][4], uint32_t box, int first,
                                     const Part<S>& part, int product) {
    const int lane = threadIdx.x % 32, piece = part.weight_piece(product) + lane / 16;
    device::load_matrices(a[0], box + swizzled(first + lane % 16, piece));
  }

  // All tokens of the warp, from the box of x that starts with line `first`.
  __device__ static void load_x(uint32_t (&b)[S::kWarpGroups][2], const char* x, int first,
                                const Part<S>& part, int product) {
    const int lane = threadIdx.x % 32, piece = part.x_piece(product) + lane / 8 % 2;
    const uint32_t from = device::shared_address(x) + swizzled_line(first + lane % 8, piece);
    if constexpr (S::kWarpGroups == 1) {
      device::load_matrices(b[0], from);
    } else {
#pragma unroll
      for (int i = 0; i < S::kWarpGroups; i += 2) {
        uint32_t four[4];
        device::load_matrices(four, from + part.group(i + lane / 16) * kGroupBytes);
        b[i][0] = four[0], b[i][1] = four[1];
        b[i + 1][0] = four[2], b[i + 1][1] = four[3];
      }
    }
  }
};

// Packed int8. A lane holds four neighbouring weights of a row, so the columns of a product are
// taken in another order, four for every lane of a row, of which a mask leaves every second; x
// follows, since it is shared by all rows.
template <typename T, typename S>
struct Operands<T, S, uint8_t> {
  static constexpr int kProducts = S::kWarpGroups > 2 ? 1 : 2;  // many sums leave few registers

  __device__ static void load_weight(uint32_t (&a)[kProducts][4], uint32_t box, int first,
                                     const Part<S>& part, int product) {
    const int lane = threadIdx.x % 32, piece = part.weight_piece(product) + lane / 16;
    const uint32_t of_tile = box + first / kGroupRows * kGroupBytes;  // one register for all tiles
    uint32_t pieces[2 * kProducts];
    device::load_matrices(pieces, of_tile + swizzled(lane % 16, piece));
#pragma unroll
    for (int i = 0; i < 2 * kProducts; ++i) {
      a[i / 2][i % 2] = device::even_weights(pieces[i]);
      a[i / 2][i % 2 + 2] = device::odd_weights(pieces[i]);
    }
  }

  __device__ static void load_x(uint32_t (&b)[S::kWarpGroups][2], const char* x, int first,
                                const Part<S>& part, int product) {
    const int lane = threadIdx.x % 32, piece = part.x_piece(product) + lane % 4 / 2;
    const char* const from = x + swizzled_line(first + lane / 4, piece) + lane % 2 * 8;
#pragma unroll
    for (int i = 0; i < S::kWarpGroups; ++i) {
      const char* const four = from + part.group(i) * kGroupBytes;
      const uint2 apart = device::interleave(*reinterpret_cast<const uint2*>(four));
      b[i][0] = device::Int8<T>::operand(apart.x), b[i][1] = device::Int8<T>::operand(apart.y);
    }
  }
};

// A warp's sums over its columns of a tile: [16 rows, 8 tokens, register].
template <typename S, int kTiles>
using Accumulators = float[kTiles][S::kWarpGroups][4];

// Frees the stage that the warp multiplied last, if there is one. At the head of the loop over
// stages, where its lanes meet: right behind the loads a __syncwarp leaves no instruction, and
// under memcheck stages were seen filled again too early.
template <typename S>
__device__ __forceinline__ void free_stage(const Ring<S>& ring, int stage) {
  __syncwarp();
  if (stage >= 0 && threadIdx.x % 32 == 0) device::barrier_arrive(&ring.empty[stage]);
}

// Adds a stage whose tile has `rows` rows; of what lies behind them the sums are of no use.
template <typename T, typename S, int kTiles>
__device__ void multiply_stage(Accumulators<S, kTiles>& acc, const Ring<S>& ring,
                               const Part<S>& part, int stage, int rows, int tokens) {
  using O = Operands<T, S, typename S::W>;
  const uint32_t weight = device::shared_address(ring.weight(stage));
#pragma unroll
  for (int step = 0; step < S::kSteps; ++step) {
    const uint32_t box = weight + (step * kStepBoxes + part.weight_box()) * rows * kBoxRowBytes;
    const int x_box = step * S::kXBoxes / S::kSteps + part.x_box();
#pragma unroll
    for (int first = 0; first < S::kSliceColumns / 16; first += O::kProducts) {
      uint32_t b[O::kProducts][S::kWarpGroups][2];
#pragma unroll
      for (int i = 0; i < O::kProducts; ++i) {
        O::load_x(b[i], ring.x(stage), x_box * tokens, part, first + i);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        uint32_t a[O::kProducts][4];
        O::load_weight(a, box, part.tile(tile) * 16, part, first);
#pragma unroll
        for (int i = 0; i < O::kProducts; ++i) {
#pragma unroll
          for (int group = 0; group < S::kWarpGroups; ++group) {
            device::multiply(acc[tile][group], a[i], b[i][group][0], b[i][group][1], T{});
          }
        }
      }
    }
  }
}

#endif  // FT_HOPPER

}  // namespace ft::cuda::sm90
