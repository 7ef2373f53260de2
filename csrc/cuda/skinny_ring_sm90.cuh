// SPDX-License-Identifier: BSD-3-Clause
// The ring of skinny_linear_sm90.cuh in shared memory, and the two threads of a block that fill it.
#pragma once

#include "cuda/tensor_map.h"
#include "device/hopper.cuh"
#include "device/pdl.cuh"

namespace ft::cuda::sm90 {

constexpr int kGroupRows = 8;  // what rows are dealt out by
constexpr int kTileGroups = 4;
constexpr int kTileRows = kTileGroups * kGroupRows;  // at most
constexpr int kBoxRowBytes = 128;                    // what one swizzle spans
constexpr int kXBoxColumns = kBoxRowBytes / 2;
constexpr int kBoxes = 2;  // of the weight in a unit
constexpr int kGroupBytes = kGroupRows * kBoxRowBytes;
constexpr int kConsumers = 256;  // a warp for every eighth of a unit's columns
constexpr int kThreads = kConsumers + 64;
constexpr int kAlignment = 1024;  // of a swizzled box
constexpr int kSumTokens = 16;    // whose sums are added at a time
constexpr int kRingBytes = 184 * 1024;

// The rows of a block, in multiples of kGroupRows. They are counted in the order of the tiles,
// whose rows come from all parts of the weight (box_map) in equal numbers.
struct Share {
  int groups_of_each, blocks_with_one_more;

  __device__ int begin(int block) const {
    return (block * groups_of_each + min(block, blocks_with_one_more)) * kGroupRows;
  }
};

// The rows of a block in as few tiles as can be, all of about one size: memory that all blocks
// want serves each by what it has asked for, and small copies ask for little.
struct Tiles {
  int begin, groups, count;

  __device__ Tiles(const Share& share, int block)
      : begin(share.begin(block)),
        groups((share.begin(block + 1) - begin) / kGroupRows),
        count((groups + kTileGroups - 1) / kTileGroups) {}
  __device__ int first_row(int tile) const { return begin + tile * groups / count * kGroupRows; }
  __device__ int num_rows(int tile) const { return first_row(tile + 1) - first_row(tile); }
};

// The weight in boxes of every number of groups.
struct WeightMaps {
  CUtensorMap of_groups[kTileGroups];
};

// For weights of type W and up to kTokens tokens.
template <typename W, int kTokens>
struct Ring {
  static constexpr int kBoxColumns = kBoxRowBytes / static_cast<int>(sizeof(W));
  static constexpr int kUnitColumns = kBoxes * kBoxColumns;
  static constexpr int kXBoxes = kUnitColumns / kXBoxColumns;
  static constexpr int kWeightBytes = kTileRows * kBoxes * kBoxRowBytes;
  static constexpr int kXBytes = kTokens * kXBoxes * kBoxRowBytes;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kStages = kRingBytes / kStageBytes;
  // The sums of kRoundTokens tokens by all warps, in rows that meet in no bank when a warp stores.
  static constexpr int kRoundTokens = kTokens < kSumTokens ? kTokens : kSumTokens;
  static constexpr int kSumStride = kTileRows + 4;
  static constexpr int kSumBytes = kConsumers / 32 * kRoundTokens * kSumStride * 4;
  static constexpr int kSharedBytes = kAlignment + kStages * (kStageBytes + 16) + kSumBytes;

  char* memory;
  float* sums;  // [warp, token, row of kSumStride]
  uint64_t* full;
  uint64_t* empty;

  __device__ explicit Ring(char* shared) {
    memory = shared + (kAlignment - device::shared_address(shared) % kAlignment) % kAlignment;
    sums = reinterpret_cast<float*>(memory + kStages * kStageBytes);
    full = reinterpret_cast<uint64_t*>(memory + kStages * kStageBytes + kSumBytes);
    empty = full + kStages;
  }
  __device__ char* weight(int stage) const { return memory + stage * kStageBytes; }
  __device__ char* x(int stage) const { return weight(stage) + kWeightBytes; }
};

#ifdef FT_HOPPER

// A stage of the ring and the phase of its barriers.
template <int kStages>
struct Position {
  int stage = 0, phase = 0;

  __device__ void advance() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

// One thread for the weights, another for x: neither waits for the other. Nothing is brought ahead
// into the second cache: it delivers hardly faster than memory, so only shared memory saves time.
template <int kParts, typename R>
__device__ void load_weights(const R& ring, const WeightMaps& maps, const Tiles& tiles, int units) {
  Position<R::kStages> at;
  for (int tile = 0; tile < tiles.count; ++tile) {
    const int row = tiles.first_row(tile), rows = tiles.num_rows(tile);
    const CUtensorMap& map = maps.of_groups[rows / kGroupRows - 1];
    for (int unit = 0; unit < units; ++unit, at.advance()) {
      uint64_t* const full = &ring.full[at.stage];
      device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
      device::barrier_expect(full, rows * kBoxes * kBoxRowBytes + R::kXBytes);
      if constexpr (kParts > 1) {
        device::copy_part_boxes(ring.weight(at.stage), map, row / kParts, unit * kBoxes, full,
                                device::kEvictFirst);
      } else {
        device::copy_boxes(ring.weight(at.stage), map, row, unit * kBoxes, full,
                           device::kEvictFirst);
      }
    }
  }
}

template <typename R>
__device__ void load_x(const R& ring, const CUtensorMap& x, int tiles, int units) {
  device::wait_for_predecessor();
  Position<R::kStages> at;
  for (int tile = 0; tile < tiles; ++tile) {
    for (int unit = 0; unit < units; ++unit, at.advance()) {
      device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
      device::copy_boxes(ring.x(at.stage), x, 0, unit * R::kXBoxes, &ring.full[at.stage],
                         device::kEvictLast);
    }
  }
}

#endif  // FT_HOPPER

}  // namespace ft::cuda::sm90
