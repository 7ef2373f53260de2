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
  static constexpr int kTileStep = S::kSharesTokens ? 1 : S::kSides;
  static constexpr int kGroupStep = S::kSharesTokens ? 2 : 1;
  __device__ int tile(int i) const { return kTileStep * i + (S::kSharesTokens ? 0 : side); }
  __device__ int group(int i) const { return kGroupStep * i + (S::kSharesTokens ? side : 0); }
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

// Operands of products of 16 columns by the type of the weight; rows and tokens as in Part. What
// differs between lanes is added up once (Places), so that little lies between a stage that has
// come and its loads.
template <typename T, typename S, typename W>
struct Operands {
  static constexpr int kProducts = 1;  // whose weights one load brings

  // 16 rows of the weight.
  __device__ static void load_weight(uint32_t (&a)[kProducts][4], uint32_t from) {
    device::load_matrices(a[0], from);
  }

  // Where a lane's part of x begins, in lines from `first` on.
  __device__ static int x_place(const Part<S>& part, int first, int product) {
    const int lane = threadIdx.x % 32, piece = part.x_piece(product) + lane / 8 % 2;
    const int group = S::kWarpGroups > 1 ? part.group(lane / 16) : 0;
    return swizzled_line(first + lane % 8, piece) + group * kGroupBytes;
  }

  // All tokens of the warp.
  __device__ static void load_x(uint32_t (&b)[S::kWarpGroups][2], const char* x) {
    const uint32_t from = device::shared_address(x);
    if constexpr (S::kWarpGroups == 1) {
      device::load_matrices(b[0], from);
    } else {
#pragma unroll
      for (int i = 0; i < S::kWarpGroups; i += 2) {
        uint32_t four[4];
        device::load_matrices(four, from + i * Part<S>::kGroupStep * kGroupBytes);
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

  __device__ static void load_weight(uint32_t (&a)[kProducts][4], uint32_t from) {
    uint32_t pieces[2 * kProducts];
    device::load_matrices(pieces, from);
#pragma unroll
    for (int i = 0; i < 2 * kProducts; ++i) {
      a[i / 2][i % 2] = device::even_weights(pieces[i]);
      a[i / 2][i % 2 + 2] = device::odd_weights(pieces[i]);
    }
  }

  __device__ static int x_place(const Part<S>& part, int first, int product) {
    const int lane = threadIdx.x % 32, piece = part.x_piece(product) + lane % 4 / 2;
    return swizzled_line(first + lane / 4, piece) + lane % 2 * 8 + part.group(0) * kGroupBytes;
  }

  __device__ static void load_x(uint32_t (&b)[S::kWarpGroups][2], const char* x) {
#pragma unroll
    for (int i = 0; i < S::kWarpGroups; ++i) {
      const char* const four = x + i * Part<S>::kGroupStep * kGroupBytes;
      const uint2 apart = device::interleave(*reinterpret_cast<const uint2*>(four));
      b[i][0] = device::Int8<T>::operand(apart.x), b[i][1] = device::Int8<T>::operand(apart.y);
    }
  }
};

// Where in a stage a lane's operands lie, of tiles with as many rows.
template <typename T, typename S>
struct Places {
  using O = Operands<T, S, typename S::W>;
  static constexpr int kWeights = S::kSliceColumns / 16 / O::kProducts;  // of a step
  static constexpr int kXs = S::kSliceColumns / 16;

  int weights[kWeights], step_bytes;
  int xs[S::kSteps][kXs];

  __device__ Places(const Ring<S>& ring, const Part<S>& part, int rows, int tokens)
      : step_bytes(kStepBoxes * rows * kBoxRowBytes) {
    const int lane = threadIdx.x % 32, row = part.tile(0) * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < kWeights; ++i) {
      weights[i] = part.weight_box() * rows * kBoxRowBytes +
                   swizzled(row, part.weight_piece(i * O::kProducts) + lane / 16);
    }
#pragma unroll
    for (int i = 0; i < S::kSteps * kXs; ++i) {
      const int step = i / kXs, box = step * S::kXBoxes / S::kSteps + part.x_box();
      xs[step][i % kXs] = ring.weight_bytes + O::x_place(part, box * tokens, i % kXs);
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

// Adds the stage that begins at `stage`; of what lies behind a tile's rows the sums are of no use.
template <typename T, typename S, int kTiles>
__device__ void multiply_stage(Accumulators<S, kTiles>& acc, const Places<T, S>& places,
                               const char* stage) {
  using O = Operands<T, S, typename S::W>;
#pragma unroll
  for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
    for (int load = 0; load < Places<T, S>::kWeights; ++load) {
      uint32_t b[O::kProducts][S::kWarpGroups][2];
#pragma unroll
      for (int i = 0; i < O::kProducts; ++i) {
        O::load_x(b[i], stage + places.xs[step][load * O::kProducts + i]);
      }
      const uint32_t weight =
          device::shared_address(stage) + places.weights[load] + step * places.step_bytes;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        uint32_t a[O::kProducts][4];
        O::load_weight(a, weight + tile * Part<S>::kTileStep * 2 * kGroupBytes);
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
