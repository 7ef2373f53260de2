// SPDX-License-Identifier: BSD-3-Clause
// gated_linear on Hopper: products of many rows, of which the first half of the sums gates the
// second one before they leave the registers.
//
// Two blocks of a cluster multiply the same rows of the weight, as many of either half, with 128
// tokens each: one loads those of the first half for both, the other those of the second. One
// thread of a block fills a ring of stages of 64 columns; two warpgroups multiply 64 tokens each. A
// thread has two sets of sums: while one grows, what came of the other, of the tile before, is
// stored.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/launch.h"
#include "device/cluster.cuh"
#include "device/pdl.cuh"
#include "device/tensor_core.cuh"
#include "device/wgmma.cuh"

namespace ft::cuda::gated {

constexpr int kClusterBlocks = 2;
constexpr int kWarpgroupThreads = 128, kWarpgroups = 2;
constexpr int kWorkers = kWarpgroups * kWarpgroupThreads;
constexpr int kThreads = kWorkers + kWarpgroupThreads;  // of whose last ones one loads
constexpr int kWorkerRegisters = 232, kLoaderRegisters = 40;
constexpr int kWarpTokens = 16, kTokens = kWorkers / 32 * kWarpTokens;  // of a block's tile
constexpr int kTileColumns = 96;                                        // of the result
constexpr int kRows = 2 * kTileColumns;  // of the weight, half of them of either half
constexpr int kSize = kRows / 2;         // sums of a thread
constexpr int kUnitColumns = 64;         // of a stage: 128 bytes, what one swizzle spans
constexpr int kRowBytes = 128, kGroupBytes = 8 * kRowBytes;
constexpr int kHalfBytes = kTileColumns * kRowBytes;  // of a stage's weight
constexpr int kXBytes = kTokens * kRowBytes, kStageBytes = kXBytes + 2 * kHalfBytes;
constexpr int kStages = 5;
constexpr int kPieceColumns = 16, kPieces = kTileColumns / kPieceColumns;
constexpr int kResultRowBytes = kTileColumns * 2, kResultBytes = kWarpTokens * kResultRowBytes;
constexpr int kAlignment = 1024;  // of a swizzled box
constexpr int kSharedBytes = kAlignment + kStages * kStageBytes + kWorkers / 32 * kResultBytes +
                             2 * kStages * static_cast<int>(sizeof(uint64_t));
constexpr int kGroupPairs = 8;  // of token tiles, which pass over the weight together
// What came of a tile is stored beside the first units of the next one, a piece beside each.
constexpr int kMinColumns = kPieces * kUnitColumns;

// What is multiplied.
struct Product {
  CUtensorMap x;               // boxes of kTokens rows and kUnitColumns columns
  CUtensorMap weight;          // of kTileColumns rows
  CUtensorMap out;             // of kWarpTokens rows and kTileColumns columns
  int tokens, columns, units;  // columns of the result; units of kUnitColumns

  __host__ __device__ int pairs() const {
    constexpr int kPairTokens = kClusterBlocks * kTokens;
    return (tokens + kPairTokens - 1) / kPairTokens;
  }
  __host__ __device__ int tiles() const {
    return pairs() * ((columns + kTileColumns - 1) / kTileColumns);
  }
};

// What a cluster multiplies at a time: groups of pairs of token tiles pass over the whole weight,
// one group behind the other, so that what clusters have in common fits into the second cache.
struct Tile {
  int pair, column;  // first column of the result

  __device__ Tile(const Product& product, int index) {
    const int pairs = product.pairs(), of_group = product.tiles() / pairs * kGroupPairs;
    const int first = index / of_group * kGroupPairs, within = index % of_group;
    const int width = min(kGroupPairs, pairs - first);
    pair = first + within % width;
    column = within / width * kTileColumns;
  }
  __device__ int first_token(int block) const { return (pair * kClusterBlocks + block) * kTokens; }
};

#ifdef FT_WGMMA

struct Ring {
  char* memory;
  uint64_t* full;
  uint64_t* empty;

  __device__ explicit Ring(char* shared)
      : memory(shared + (kAlignment - device::shared_address(shared) % kAlignment) % kAlignment),
        full(reinterpret_cast<uint64_t*>(result(kWorkers / 32))),
        empty(full + kStages) {}
  __device__ char* x(int stage) const { return memory + stage * kStageBytes; }
  __device__ char* weight(int stage) const { return x(stage) + kXBytes; }
  __device__ char* result(int warp) const {
    return memory + kStages * kStageBytes + warp * kResultBytes;
  }

  // By one thread. A stage is empty when all warps of both blocks have done with it, since each
  // block writes into both.
  __device__ void init() const {
    for (int stage = 0; stage < kStages; ++stage) {
      device::barrier_init(&full[stage], 1);
      device::barrier_init(&empty[stage], kClusterBlocks * kWorkers / 32);
    }
    device::barrier_init_fence();
  }
};

// A stage of the ring and the phase of its barriers.
struct Position {
  int stage = 0, phase = 0;

  __device__ void advance() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

// By one thread of each block: its own tokens, and one half of the weight for both blocks.
__device__ void load(const Ring& ring, const Product& product, int block, int index, int clusters) {
  device::wait_for_predecessor();
  Position at;
  for (; index < product.tiles(); index += clusters) {
    const Tile tile(product, index);
    const int token = tile.first_token(block), row = tile.column + block * product.columns;
    for (int unit = 0; unit < product.units; ++unit, at.advance()) {
      uint64_t* const full = &ring.full[at.stage];
      device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
      device::barrier_expect(full, kStageBytes);
      device::copy_boxes(ring.x(at.stage), product.x, token, unit, full, device::kEvictNormal);
      device::copy_boxes_to_both(ring.weight(at.stage) + block * kHalfBytes, product.weight, row,
                                 unit, full, device::kEvictNormal);
    }
  }
}

// A warp's part in all tiles.
template <typename T, Activation kKind>
class Worker {
 public:
  __device__ Worker(const Ring& ring, const Product& product, int block)
      : ring_(ring),
        product_(product),
        block_(block),
        warp_(__shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0)) {}

  // Tile `index` and every `clusters`-th behind it; there is one.
  __device__ void run(int index, int clusters) {
    Sums even, odd;
    multiply<false>(even, odd, Tile(product_, index));
    while (true) {
      Tile tile(product_, index);
      if ((index += clusters) >= product_.tiles()) return store(even, tile);
      multiply<true>(odd, even, tile);
      tile = Tile(product_, index);
      if ((index += clusters) >= product_.tiles()) return store(odd, tile);
      multiply<true>(even, odd, tile);
    }
  }

 private:
  using Sums = float[kSize];

  // All units of a tile; with kStores beside the first ones what came of `tile`, the one before.
  template <bool kStores>
  __device__ __forceinline__ void multiply(Sums& sums, const Sums& done, const Tile& tile) {
    int unit = 0;
    if constexpr (kStores) {
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece, ++unit) {
        start(sums, piece > 0);
        store_piece(done, piece, tile);
        proceed(piece > 0);
      }
    }
    for (; unit < product_.units; ++unit) {
      start(sums, unit > 0);
      proceed(unit > 0);
    }
    device::products_wait<0>();
    device::pin(sums);
    release(last_);
  }

  // The products of the next stage.
  __device__ __forceinline__ void start(Sums& sums, bool accumulate) {
    device::barrier_wait(&ring_.full[at_.stage], at_.phase);
    const char* const x = ring_.x(at_.stage) + warp_ / 4 * 64 * kRowBytes;
    const uint64_t a = device::strip_descriptor(x, kGroupBytes, 0);
    const uint64_t b = device::strip_descriptor(ring_.weight(at_.stage), kGroupBytes, 0);
    device::pin(sums);
    device::products_fence();
#pragma unroll
    for (int i = 0; i < kUnitColumns / 16; ++i) {
      device::multiply_rows<T>(sums, a + i * 2, b + i * 2, accumulate || i > 0);
    }
    device::products_commit();
  }

  // While they run, those of the stage before end, if there is one.
  __device__ __forceinline__ void proceed(bool has_last) {
    if (has_last) {
      device::products_wait<1>();
      release(last_);
    }
    last_ = at_.stage;
    at_.advance();
  }

  __device__ void release(int stage) const {
    const int lane = threadIdx.x % 32;
    if (lane < kClusterBlocks) device::barrier_arrive_at(&ring_.empty[stage], lane);
  }

  __device__ __forceinline__ void store(const Sums& done, const Tile& tile) const {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) store_piece(done, piece, tile);
    if (threadIdx.x % 32 == 0) device::stores_wait_read();
  }

  // Of the warp's tokens 16 columns, into shared memory, from where the copy engine stores the tile
  // behind the last piece.
  __device__ __forceinline__ void store_piece(const Sums& done, int piece, const Tile& tile) const {
    const int lane = threadIdx.x % 32;
    char* const result = ring_.result(warp_);
    if (piece == 0) {
      if (lane == 0) device::stores_wait_read();
      __syncwarp();
    }
    uint32_t four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = (piece * 2 + i / 2) * 4 + i % 2 * 2;
      const float x = activate(kKind, done[at]) * done[kSize / 2 + at];
      const float y = activate(kKind, done[at + 1]) * done[kSize / 2 + at + 1];
      four[i] = device::pack<T>(x, y);
    }
    device::store_matrices(result + lane % 16 * kResultRowBytes + (piece * 2 + lane / 16) * 16,
                           four);
    if (piece + 1 < kPieces) return;
    device::async_proxy_fence();
    __syncwarp();
    if (lane == 0) {
      device::store_box(product_.out, tile.column, tile.first_token(block_) + warp_ * kWarpTokens,
                        result);
    }
  }

  const Ring& ring_;
  const Product& product_;
  int block_, warp_, last_ = 0;
  Position at_;
};

#endif  // FT_WGMMA

template <typename T, Activation kKind>
__global__ void __launch_bounds__(kThreads, 1)
    gated_linear_sm90_kernel(const __grid_constant__ Product product) {
#ifdef FT_WGMMA
  extern __shared__ char shared[];
  const Ring ring(shared);
  const int block = blockIdx.x % kClusterBlocks, cluster = blockIdx.x / kClusterBlocks;
  const int clusters = gridDim.x / kClusterBlocks;
  if (threadIdx.x == 0) ring.init();
  device::Cluster<kClusterBlocks>::sync();
  if (threadIdx.x < kWorkers) {
    device::raise_registers<kWorkerRegisters>();
    Worker<T, kKind>(ring, product, block).run(cluster, clusters);
  } else {
    device::lower_registers<kLoaderRegisters>();
    if (threadIdx.x == kWorkers) load(ring, product, block, cluster, clusters);
    __syncwarp();
  }
  // The other block may still write here.
  device::Cluster<kClusterBlocks>::sync();
#endif
}

}  // namespace ft::cuda::gated
