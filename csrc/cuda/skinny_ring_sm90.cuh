// SPDX-License-Identifier: BSD-3-Clause
// The ring of skinny_linear_sm90.cuh and skinny_wide_sm90.cuh in shared memory, and the two threads
// of a block that fill it.
#pragma once

#include <algorithm>

#include "cuda/launch.h"
#include "cuda/skinny_linear.h"
#include "cuda/tensor_map.h"
#include "device/hopper.cuh"
#include "device/pdl.cuh"
#include "device/ring.cuh"

namespace ft::cuda::sm90 {

constexpr int kGroupRows = 8;      // what rows are dealt out by
constexpr int kBoxRowBytes = 128;  // what one swizzle spans
constexpr int kXBoxColumns = kBoxRowBytes / 2;
constexpr int kStepBoxes = 2;  // of the weight that all warps multiply at a time
constexpr int kGroupBytes = kGroupRows * kBoxRowBytes;
constexpr int kWarps = 16, kConsumers = kWarps * 32, kThreads = kConsumers + 64;
constexpr int kAlignment = 1024;  // of a swizzled box
constexpr int kSumTokens = 16;    // whose sums are added at a time
constexpr int kRingBytes = 184 * 1024;
constexpr int kMaxStages = 48;
constexpr int kNarrowGroups = 2;      // of a block, at most: few rows
constexpr int kNarrowTileGroups = 4;  // what two warps multiply at least

constexpr int shared_bytes(int sum_bytes) {
  return kAlignment + kRingBytes + sum_bytes + 2 * kMaxStages * static_cast<int>(sizeof(uint64_t));
}

// How a kernel for weights of type W_ and up to kTokens_ tokens works. kGroups_: of kGroupRows
// rows, in a tile, at most. kSteps_: in a unit, which a stage of the ring holds. kSlices_: of the
// columns of a step, each for some of the warps.
template <typename W_, int kTokens_, int kGroups_, int kSteps_, int kSlices_>
struct Shape {
  using W = W_;
  static constexpr int kTokens = kTokens_, kGroups = kGroups_, kSteps = kSteps_;
  static constexpr int kSlices = kSlices_, kSides = kWarps / kSlices;
  static constexpr int kTileRows = kGroups * kGroupRows;
  static constexpr int kBoxes = kSteps * kStepBoxes;  // of the weight in a unit
  static constexpr int kBoxColumns = kBoxRowBytes / static_cast<int>(sizeof(W));
  static constexpr int kUnitColumns = kBoxes * kBoxColumns;
  static constexpr int kXBoxes = kUnitColumns / kXBoxColumns;

  // The warps of a slice: few tokens are all multiplied by every one, each with some 16 rows of a
  // tile in turn; of many, each of two takes every second 8 with all rows.
  static constexpr int kSliceColumns = kStepBoxes * kBoxColumns / kSlices;
  static constexpr bool kSharesTokens = kTokens > kSumTokens;
  static constexpr int kTiles = kTileRows / 16;
  static_assert(kTiles >= kSides && (!kSharesTokens || kSides == 2));
  static constexpr int kWarpTiles = kSharesTokens ? kTiles : (kTiles + kSides - 1) / kSides;
  static constexpr int kWarpGroups = kTokens / 8 / (kSharesTokens ? 2 : 1);

  // The sums of kRoundTokens tokens by all slices, in rows that meet in no bank when a warp stores.
  static constexpr int kRoundTokens = kTokens < kSumTokens ? kTokens : kSumTokens;
  static constexpr int kSumStride = kTileRows + 4;
  static constexpr int kSumBytes = kSlices * kRoundTokens * kSumStride * 4;
  static constexpr int kSharedBytes = shared_bytes(kSumBytes);
};

// How the rows are dealt out: every block gets as many tiles, all of about one size, since memory
// that all blocks want serves each by what it has asked for, and small copies ask for little. Rows
// are counted in the order of the tiles, whose rows come from all parts of the weight (box_map) in
// equal numbers.
struct Share {
  int blocks = 0, groups_of_each = 0, blocks_with_one_more = 0, tiles = 1;

  Share() = default;
  explicit Share(int64_t rows) {
    const int groups = static_cast<int>((rows + kGroupRows - 1) / kGroupRows);
    blocks = std::min(groups, num_multiprocessors());
    groups_of_each = groups / blocks;
    blocks_with_one_more = groups % blocks;
  }

  __host__ __device__ int most_groups() const {
    return groups_of_each + (blocks_with_one_more > 0 ? 1 : 0);
  }
  // Into tiles of so many rows at most.
  void divide(int rows) { tiles = (most_groups() * kGroupRows + rows - 1) / rows; }
  // Of a tile; some have one more.
  __host__ __device__ int tile_groups() const { return groups_of_each / tiles; }
  __host__ __device__ int max_tile_groups() const { return (most_groups() + tiles - 1) / tiles; }
};

// The rows of a block.
struct Tiles {
  int begin, groups, count;

  __device__ Tiles(const Share& share, int block)
      : begin((block * share.groups_of_each + min(block, share.blocks_with_one_more)) * kGroupRows),
        groups(share.groups_of_each + (block < share.blocks_with_one_more ? 1 : 0)),
        count(share.tiles) {}
  __device__ int first_row(int tile) const { return begin + tile * groups / count * kGroupRows; }
  __device__ int num_rows(int tile) const { return first_row(tile + 1) - first_row(tile); }
};

// What is multiplied with what. Boxes of the weight have either number of groups that tiles have.
struct Source {
  CUtensorMap weight[2];
  CUtensorMap x;
  int units;
};

// One product, or two that are added: the units of the second follow those of the first.
struct Sources {
  Source of[2];
  int fewer_groups;

  __host__ __device__ int units() const { return of[0].units + of[1].units; }
};

// One product of a sum, for tiles of `share`.
template <typename S, int kParts>
Source source_of(const char* op, const Tensor& x, const Tensor& weight, const Share& share) {
  Source source;
  for (int i = 0; i < 2; ++i) {
    const int rows = (share.tile_groups() + i) * kGroupRows;
    source.weight[i] = box_map(op, weight, rows / kParts, S::kBoxColumns, S::kBoxes, kParts);
  }
  source.x = box_map(op, x, static_cast<int>(x.shape[0]), kXBoxColumns, S::kXBoxes);
  source.units = static_cast<int>((weight.shape[1] + S::kUnitColumns - 1) / S::kUnitColumns);
  return source;
}

template <typename S, int kParts>
Sources sources_of(const SkinnyProduct& product, const Share& share) {
  Sources sources{};
  sources.fewer_groups = share.tile_groups();
  sources.of[0] = source_of<S, kParts>(product.op, product.x, product.weight, share);
  if (product.second_x != nullptr) {
    sources.of[1] =
        source_of<S, kParts>(product.op, *product.second_x, *product.second_weight, share);
  }
  return sources;
}

// The ring of a kernel of shape S. Stages are as large as the largest tile needs, so that there are
// many of small ones.
template <typename S>
struct Ring {
  char* memory;
  float* sums;  // [slice, token, row of kSumStride]
  uint64_t* full;
  uint64_t* empty;
  int weight_bytes, stage_bytes, stages;

  __device__ Ring(char* shared, const Share& share, int tokens) {
    memory = shared + (kAlignment - device::shared_address(shared) % kAlignment) % kAlignment;
    sums = reinterpret_cast<float*>(memory + kRingBytes);
    full = reinterpret_cast<uint64_t*>(memory + kRingBytes + S::kSumBytes);
    empty = full + kMaxStages;
    weight_bytes = share.max_tile_groups() * S::kBoxes * kGroupBytes;
    const int x_bytes = S::kXBoxes * tokens * kBoxRowBytes;
    stage_bytes = weight_bytes + (x_bytes + kAlignment - 1) / kAlignment * kAlignment;
    stages = min(kMaxStages, kRingBytes / stage_bytes);
  }
#ifdef FT_HOPPER
  // By one thread, before a barrier of the block. `consumers`: warps that empty a stage.
  __device__ void init(int consumers) const {
    for (int stage = 0; stage < stages; ++stage) {
      device::barrier_init(&full[stage], 1);
      device::barrier_init(&empty[stage], consumers);
    }
    device::barrier_init_fence();
  }
#endif
  __device__ char* weight(int stage) const { return memory + stage * stage_bytes; }
  __device__ char* x(int stage) const { return weight(stage) + weight_bytes; }
};

#ifdef FT_HOPPER

// One thread for the weights, another for x: neither waits for the other. Nothing is brought ahead
// into the second cache: it delivers hardly faster than memory, so only shared memory saves time.
template <int kParts, typename S>
__device__ void load_weights(const Ring<S>& ring, const Sources& sources, const Tiles& tiles,
                             int tokens) {
  device::RingPosition at;
  for (int tile = 0; tile < tiles.count; ++tile) {
    const int row = tiles.first_row(tile), rows = tiles.num_rows(tile);
    const int bytes = (rows * S::kBoxes + tokens * S::kXBoxes) * kBoxRowBytes;
    for (const Source& source : sources.of) {
      const CUtensorMap& map = source.weight[rows / kGroupRows - sources.fewer_groups];
      for (int unit = 0; unit < source.units; ++unit, at.advance(ring.stages)) {
        uint64_t* const full = &ring.full[at.stage];
        device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
        device::barrier_expect(full, bytes);
        if constexpr (kParts > 1) {
          device::copy_part_boxes(ring.weight(at.stage), map, row / kParts, unit * S::kBoxes, full,
                                  device::kEvictFirst);
        } else {
          device::copy_boxes(ring.weight(at.stage), map, row, unit * S::kBoxes, full,
                             device::kEvictFirst);
        }
      }
    }
  }
}

// Boxes of as many rows as there are tokens: rows outside of x would cost more than others. What
// lies behind them in shared memory multiplies into sums that nobody needs.
template <typename S>
__device__ void load_x(const Ring<S>& ring, const Sources& sources, int tiles) {
  device::wait_for_predecessor();
  device::RingPosition at;
  for (int tile = 0; tile < tiles; ++tile) {
    for (const Source& source : sources.of) {
      for (int unit = 0; unit < source.units; ++unit, at.advance(ring.stages)) {
        device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
        device::copy_boxes(ring.x(at.stage), source.x, 0, unit * S::kXBoxes, &ring.full[at.stage],
                           device::kEvictLast);
      }
    }
  }
}

#endif  // FT_HOPPER

}  // namespace ft::cuda::sm90
