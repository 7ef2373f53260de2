// SPDX-License-Identifier: BSD-3-Clause
// The tiles of fused_linear_sm90.cuh, their ring in shared memory, and the thread that fills it.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/tensor_map.h"
#include "device/pdl.cuh"
#include "device/ring.cuh"
#include "device/wgmma.cuh"

namespace ft::cuda::fused {

constexpr int kClusterBlocks = 2;
constexpr int kWarpgroupThreads = 128, kWarpgroups = 2;
constexpr int kWorkers = kWarpgroups * kWarpgroupThreads, kWarps = kWorkers / 32;
constexpr int kThreads = kWorkers + kWarpgroupThreads;  // of whose last ones one loads
constexpr int kWorkerRegisters = 232, kLoaderRegisters = 40;
constexpr int kWarpTokens = 16, kTokens = kWarps * kWarpTokens;  // of a block's tile
constexpr int kUnitColumns = 64;  // of a stage: 128 bytes, what one swizzle spans
constexpr int kRowBytes = 128, kGroupBytes = 8 * kRowBytes;
constexpr int kXBytes = kTokens * kRowBytes;
constexpr int kPieceColumns = 16;  // of the result, stored at a time
constexpr int kAlignment = 1024;   // of a swizzled box
constexpr int kBarrierBytes = 256, kMostSharedBytes = 227 * 1024;
constexpr int kGroupPairs = 8;  // of token tiles, which pass over the weight together

// kParts_: of the weight. kRows_: of the weight in a tile, of all parts. kUnitPieces_: stored
// beside a unit of the next tile.
template <typename T_, Activation kKind_, int kParts_, int kRows_, int kUnitPieces_>
struct Shape {
  using T = T_;
  static constexpr Activation kKind = kKind_;
  static constexpr int kParts = kParts_, kRows = kRows_, kHalfRows = kRows / 2;
  static constexpr int kTileColumns = kRows / kParts;  // of the result
  static constexpr int kSize = kRows / 2;              // sums of a thread
  static constexpr int kHalfBytes = kHalfRows * kRowBytes, kStageBytes = kXBytes + 2 * kHalfBytes;
  // What came of a tile is stored beside the first units of the next one, in pieces, and leaves
  // shared memory in strips.
  static constexpr int kPieces = kTileColumns / kPieceColumns, kUnitPieces = kUnitPieces_;
  static constexpr int kStoringUnits = kPieces / kUnitPieces;
  static constexpr int kMinColumns = kStoringUnits * kUnitColumns;
  static constexpr int kStripColumns = kParts > 1 ? kTileColumns : ft::cuda::kStripColumns;
  static constexpr bool kIsSwizzled = kStripColumns == ft::cuda::kStripColumns;
  static constexpr int kStripPieces = kStripColumns / kPieceColumns;
  static constexpr int kStripRowBytes = kStripColumns * 2;
  static constexpr int kStripBytes = kWarpTokens * kStripRowBytes;
  static constexpr int kResultBytes = kWarps * kStripBytes;
  static constexpr int kStages =
      (kMostSharedBytes - kAlignment - kResultBytes - kBarrierBytes) / kStageBytes;
  static constexpr int kSharedBytes =
      kAlignment + kStages * kStageBytes + kResultBytes + kBarrierBytes;
  static_assert(2 * kStages * static_cast<int>(sizeof(uint64_t)) <= kBarrierBytes);
  static_assert(kPieces % kStripPieces == 0 && kPieces % kUnitPieces == 0 &&
                kStageBytes % kAlignment == 0);
};

// What is multiplied.
template <typename S>
struct Product {
  CUtensorMap x;               // boxes of kTokens rows and kUnitColumns columns
  CUtensorMap weight;          // of kHalfRows rows
  CUtensorMap out;             // of kWarpTokens rows and kStripColumns columns
  const typename S::T* bias;   // [columns] or null; none of two parts
  int tokens, columns, units;  // columns of the result; units of kUnitColumns

  __host__ __device__ int pairs() const {
    constexpr int kPairTokens = kClusterBlocks * kTokens;
    return (tokens + kPairTokens - 1) / kPairTokens;
  }
  __host__ __device__ int tiles() const {
    return pairs() * ((columns + S::kTileColumns - 1) / S::kTileColumns);
  }
};

// What a cluster multiplies at a time: groups of pairs of token tiles pass over the whole weight,
// one group behind the other, so that what clusters have in common fits into the second cache.
template <typename S>
struct Tile {
  int pair, column;  // first column of the result

  __device__ Tile(const Product<S>& product, int index) {
    const int pairs = product.pairs(), of_group = product.tiles() / pairs * kGroupPairs;
    const int first = index / of_group * kGroupPairs, within = index % of_group;
    const int width = min(kGroupPairs, pairs - first);
    pair = first + within % width;
    column = within / width * S::kTileColumns;
  }
  __device__ int first_token(int block) const { return (pair * kClusterBlocks + block) * kTokens; }
};

#ifdef FT_WGMMA

template <typename S>
struct Ring {
  char* memory;
  uint64_t* full;
  uint64_t* empty;

  __device__ explicit Ring(char* shared)
      : memory(shared + (kAlignment - device::shared_address(shared) % kAlignment) % kAlignment),
        full(reinterpret_cast<uint64_t*>(strip(kWarps))),
        empty(full + S::kStages) {}
  __device__ char* x(int stage) const { return memory + stage * S::kStageBytes; }
  __device__ char* weight(int stage) const { return x(stage) + kXBytes; }
  __device__ char* strip(int warp) const {
    return memory + S::kStages * S::kStageBytes + warp * S::kStripBytes;
  }

  // By one thread. A stage is empty when all warps of both blocks have done with it, since each
  // block writes into both.
  __device__ void init() const {
    for (int stage = 0; stage < S::kStages; ++stage) {
      device::barrier_init(&full[stage], 1);
      device::barrier_init(&empty[stage], kClusterBlocks * kWarps);
    }
    device::barrier_init_fence();
  }
};

// By one thread of each block: its own tokens, and half of the weight's rows for both blocks, those
// of one part where there are two.
template <typename S>
__device__ void load(const Ring<S>& ring, const Product<S>& product, int block, int index,
                     int clusters) {
  device::wait_for_predecessor();
  device::RingPosition at;
  const int first_row = block * (S::kParts > 1 ? product.columns : S::kHalfRows);
  for (; index < product.tiles(); index += clusters) {
    const Tile<S> tile(product, index);
    const int token = tile.first_token(block), row = tile.column + first_row;
    for (int unit = 0; unit < product.units; ++unit, at.advance(S::kStages)) {
      uint64_t* const full = &ring.full[at.stage];
      device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
      device::barrier_expect(full, S::kStageBytes);
      device::copy_boxes(ring.x(at.stage), product.x, token, unit, full, device::kEvictNormal);
      device::copy_boxes_to_both(ring.weight(at.stage) + block * S::kHalfBytes, product.weight, row,
                                 unit, full, device::kEvictNormal);
    }
  }
}

#endif  // FT_WGMMA

}  // namespace ft::cuda::fused
