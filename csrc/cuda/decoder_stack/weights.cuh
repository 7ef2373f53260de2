// SPDX-License-Identifier: BSD-3-Clause
// The thread of a block of decoder_stack that brings its rows of all weights, product by product,
// as fast as the ring has room: it waits for no value.
#pragma once

#include "cuda/decoder_stack/shared.cuh"
#include "device/ring.cuh"

namespace ft::cuda::stack {

#ifdef FT_HOPPER

// The tiles of this block; none of a product with fewer rows than there are blocks.
__device__ __forceinline__ sm90::Tiles tiles_of(const sm90::Share& share) {
  sm90::Tiles tiles(share, blockIdx.x);
  if (static_cast<int>(blockIdx.x) >= share.blocks) tiles.count = 0;
  return tiles;
}

template <typename T, int kHeadDim>
__device__ void load_weights(const Arguments<T>& a, const Shared<T, kHeadDim>& shared) {
  device::RingPosition at;
  Load next = a.steps[0].load;
#pragma unroll 1
  for (int step = 0; step < a.num_steps; ++step) {
    const Load load = next;
    const Maps& maps = a.maps[step];
    if (step + 1 < a.num_steps) {
      next = a.steps[step + 1].load;
      if (next.share.blocks > 0) {
        device::prefetch_map(a.maps[step + 1].weight[0]);
        device::prefetch_map(a.maps[step + 1].weight[1]);
      }
    }
    const sm90::Tiles tiles = tiles_of(load.share);
    for (int tile = 0; tile < tiles.count; ++tile) {
      const int row = tiles.first_row(tile), rows = tiles.num_rows(tile);
      const CUtensorMap& map = maps.weight[rows / kGroupRows - load.fewer_groups];
      for (int box = 0; box < load.strips; box += load.boxes, at.advance(shared.layout.stages)) {
        uint64_t* const full = shared.full(at.stage);
        device::barrier_wait(shared.empty(at.stage), at.phase ^ 1);
        device::barrier_expect(full, rows * load.boxes * kBoxRowBytes);
        if (load.parts > 1) {
          device::copy_part_boxes(shared.stage(at.stage), map, row / 2, box, full,
                                  device::kEvictFirst);
        } else {
          device::copy_boxes(shared.stage(at.stage), map, row, box, full, device::kEvictFirst);
        }
      }
    }
  }
}

#endif  // FT_HOPPER

}  // namespace ft::cuda::stack
