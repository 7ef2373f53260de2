// SPDX-License-Identifier: BSD-3-Clause
// The ring of skinny_linear_sm90.cu in shared memory, and the two threads of a block that fill it.
#pragma once

#include "cuda/tensor_map.h"
#include "device/hopper.cuh"
#include "device/pdl.cuh"

namespace ft::cuda::sm90 {

constexpr int kGroupRows = 8;  // what rows are dealt out by
constexpr int kTileGroups = 4;
constexpr int kTileRows = kTileGroups * kGroupRows;  // at most
constexpr int kUnitColumns = 128;
constexpr int kBoxColumns = 64;  // 128 bytes, what one swizzle spans
constexpr int kBoxes = kUnitColumns / kBoxColumns;
constexpr int kBoxRowBytes = kBoxColumns * 2;
constexpr int kGroupBytes = kGroupRows * kBoxRowBytes;
constexpr int kConsumers = 256;  // a warp for every 16 columns of a unit
constexpr int kThreads = kConsumers + 64;
constexpr int kAlignment = 1024;  // of a swizzled box
constexpr int kSumStride = 36;    // of the rows of a tile, so that a warp's stores meet in no bank
constexpr int kFewTokens = 16;
constexpr int kAheadUnits = 12;  // brought into the second cache behind a full ring
constexpr int kSumTokens = 16;   // whose sums are added at a time

// The rows [begin, end) of a block, in multiples of kGroupRows. They are counted in the order of
// the tiles, whose rows come from all parts of the weight (box_map) in equal numbers.
struct Share {
  int groups_of_each, blocks_with_one_more;

  __device__ int begin(int block) const {
    return (block * groups_of_each + min(block, blocks_with_one_more)) * kGroupRows;
  }
};

// The rows of a block in as few tiles as can be, all of about one size: a block whose copies are
// smaller than the other blocks' gets less of the memory's bandwidth.
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

template <int kTokens>
struct Ring {
  // With few tokens two blocks fit on a multiprocessor; with many, a deep ring is worth more.
  static constexpr int kBytes = (kTokens <= kFewTokens ? 92 : 184) * 1024;
  static constexpr int kWeightBytes = kTileRows * kUnitColumns * 2;
  static constexpr int kXBytes = kTokens * kUnitColumns * 2;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kStages = kBytes / kStageBytes;
  static constexpr int kSumBytes =
      kConsumers / 32 * (kTokens < kSumTokens ? kTokens : kSumTokens) * kSumStride * 4;
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

// The weight's units of a block, in the order in which they are needed.
template <int kParts>
struct WeightUnits {
  const WeightMaps& maps;
  const Tiles& tiles;
  int units_of_row, tile = 0, unit = 0;
  int row = tiles.first_row(0), rows = tiles.num_rows(0);

  __device__ bool is_at_end() const { return tile == tiles.count; }
  __device__ void advance() {
    if (++unit < units_of_row) return;
    unit = 0;
    row = tiles.first_row(++tile);
    rows = tiles.num_rows(tile);
  }
  __device__ void copy(void* to, uint64_t* barrier) const {
    if constexpr (kParts > 1) {
      device::copy_part_boxes(to, map(), row / kParts, unit * kBoxes, barrier, device::kEvictFirst);
    } else {
      device::copy_boxes(to, map(), row, unit * kBoxes, barrier, device::kEvictFirst);
    }
  }
  __device__ void prefetch() const {
    if constexpr (kParts > 1) {
      device::prefetch_part_boxes(map(), row / kParts, unit * kBoxes);
    } else {
      device::prefetch_boxes(map(), row, unit * kBoxes);
    }
  }

 private:
  __device__ const CUtensorMap& map() const { return maps.of_groups[rows / kGroupRows - 1]; }
};

// One thread for the weights, another for x: neither waits for the other. Between two products the
// memory is idle for longer than a ring takes to fill, so behind a full ring the second cache takes
// in what comes next. With many tokens the gap is shorter, and the cache has to deliver x as well.
template <int kTokens, int kParts>
__device__ void load_weights(const Ring<kTokens>& ring, WeightUnits<kParts> next) {
  using R = Ring<kTokens>;
  WeightUnits<kParts> ahead = next;
  Position<R::kStages> at;
  for (int count = 0; !next.is_at_end(); ++count, next.advance(), at.advance()) {
    if (count < R::kStages) ahead.advance();
    if (kTokens <= kFewTokens && count == R::kStages) {
      for (int i = 0; i < kAheadUnits && !ahead.is_at_end(); ++i, ahead.advance()) ahead.prefetch();
    }
    uint64_t* const full = &ring.full[at.stage];
    device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
    device::barrier_expect(full, next.rows * kUnitColumns * 2 + R::kXBytes);
    next.copy(ring.weight(at.stage), full);
  }
}

template <int kTokens>
__device__ void load_x(const Ring<kTokens>& ring, const CUtensorMap& x, int tiles, int units) {
  device::wait_for_predecessor();
  Position<Ring<kTokens>::kStages> at;
  for (int tile = 0; tile < tiles; ++tile) {
    for (int unit = 0; unit < units; ++unit, at.advance()) {
      device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
      device::copy_boxes(ring.x(at.stage), x, 0, unit * kBoxes, &ring.full[at.stage],
                         device::kEvictLast);
    }
  }
}

#endif  // FT_HOPPER

}  // namespace ft::cuda::sm90
