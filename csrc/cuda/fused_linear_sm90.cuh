// SPDX-License-Identifier: BSD-3-Clause
// activated_linear and gated_linear on Hopper: products of many rows whose sums are activated
// before they leave the registers; with two parts of the weight the first one's sums, which gate
// those of the second.
//
// Two blocks of a cluster multiply the same rows of the weight, as many of either part, with 128
// tokens each: each loads half of them for both. One thread of a block fills a ring of stages of 64
// columns; two warpgroups multiply 64 tokens each. A thread has two sets of sums: while one grows,
// what came of the other, of the tile before, is stored.
#pragma once

#include "cuda/fused_ring_sm90.cuh"
#include "device/cluster.cuh"
#include "device/tensor_core.cuh"
#include "device/vec.cuh"

namespace ft::cuda::fused {

#ifdef FT_WGMMA

// A warp's part in all tiles.
template <typename S>
class Worker {
 public:
  __device__ Worker(const Ring<S>& ring, const Product<S>& product, int block)
      : ring_(ring),
        product_(product),
        block_(block),
        warp_(__shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0)) {}

  // Tile `index` and every `clusters`-th behind it; there is one.
  __device__ void run(int index, int clusters) {
    Sums even, odd;
    multiply<false>(even, odd, Tile<S>(product_, index));
    while (true) {
      Tile<S> tile(product_, index);
      if ((index += clusters) >= product_.tiles()) return store(even, tile);
      multiply<true>(odd, even, tile);
      tile = Tile<S>(product_, index);
      if ((index += clusters) >= product_.tiles()) return store(odd, tile);
      multiply<true>(even, odd, tile);
    }
  }

 private:
  using T = typename S::T;
  using Sums = float[S::kSize];

  // What is added to a lane's sums of a piece: two columns of each 8.
  struct Bias {
    T of[2][2];
  };

  // All units of a tile; with kStores beside the first ones what came of `tile`, the one before.
  template <bool kStores>
  __device__ __forceinline__ void multiply(Sums& sums, const Sums& done, const Tile<S>& tile) {
    int unit = 0;
    if constexpr (kStores) {
#pragma unroll
      for (; unit < S::kStoringUnits; ++unit) {
        const int piece = unit * S::kUnitPieces;
        Bias bias[S::kUnitPieces];  // comes while the stage is waited for
#pragma unroll
        for (int i = 0; i < S::kUnitPieces; ++i) bias[i] = bias_of(piece + i, tile);
        start(sums, unit > 0);
#pragma unroll
        for (int i = 0; i < S::kUnitPieces; ++i) store_piece(done, piece + i, bias[i], tile);
        proceed(unit > 0);
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
    at_.advance(S::kStages);
  }

  __device__ void release(int stage) const {
    const int lane = threadIdx.x % 32;
    if (lane < kClusterBlocks) device::barrier_arrive_at(&ring_.empty[stage], lane);
  }

  __device__ __forceinline__ Bias bias_of(int piece, const Tile<S>& tile) const {
    const T zero(0.0f);
    Bias bias{{{zero, zero}, {zero, zero}}};
    if (product_.bias == nullptr) return bias;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = tile.column + piece * kPieceColumns + i * 8 + threadIdx.x % 4 * 2;
      if (column >= product_.columns) break;
      bias.of[i][0] = product_.bias[column];
      bias.of[i][1] = product_.bias[column + 1];
    }
    return bias;
  }

  __device__ __forceinline__ void store(const Sums& done, const Tile<S>& tile) const {
#pragma unroll
    for (int piece = 0; piece < S::kPieces; ++piece) {
      store_piece(done, piece, bias_of(piece, tile), tile);
    }
    if (threadIdx.x % 32 == 0) device::stores_wait_read();
  }

  // What a column of the result has instead of sum `at`.
  __device__ __forceinline__ float finished(const Sums& done, int at, T bias) const {
    if constexpr (S::kParts > 1) return activate(S::kKind, done[at]) * done[S::kSize / 2 + at];
    return activate(S::kKind, done[at] + device::to_float(bias));
  }

  // Where a lane puts its 8 columns of a row into the strip.
  __device__ __forceinline__ static int place(int row, int eight) {
    return row * S::kStripRowBytes + (S::kIsSwizzled ? eight ^ row % 8 : eight) * 16;
  }

  // Of the warp's tokens 16 columns, into shared memory, from where the copy engine stores a strip
  // behind its last piece.
  __device__ __forceinline__ void store_piece(const Sums& done, int piece, const Bias& bias,
                                              const Tile<S>& tile) const {
    const int lane = threadIdx.x % 32, of_strip = piece % S::kStripPieces;
    char* const strip = ring_.strip(warp_);
    if (of_strip == 0) {
      if (lane == 0) device::stores_wait_read();
      __syncwarp();
    }
    uint32_t four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = (piece * 2 + i / 2) * 4 + i % 2 * 2;
      const float x = finished(done, at, bias.of[i / 2][0]);
      const float y = finished(done, at + 1, bias.of[i / 2][1]);
      four[i] = device::pack<T>(x, y);
    }
    device::store_matrices(strip + place(lane % 16, of_strip * 2 + lane / 16), four);
    if (of_strip + 1 < S::kStripPieces) return;
    device::async_proxy_fence();
    __syncwarp();
    if (lane == 0) {
      device::store_box(product_.out, tile.column + (piece - of_strip) * kPieceColumns,
                        tile.first_token(block_) + warp_ * kWarpTokens, strip);
    }
  }

  const Ring<S>& ring_;
  const Product<S>& product_;
  int block_, warp_, last_ = 0;
  device::RingPosition at_;
};

#endif  // FT_WGMMA

template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    fused_linear_sm90_kernel(const __grid_constant__ Product<S> product) {
#ifdef FT_WGMMA
  extern __shared__ char shared[];
  const Ring<S> ring(shared);
  const int block = blockIdx.x % kClusterBlocks, cluster = blockIdx.x / kClusterBlocks;
  const int clusters = gridDim.x / kClusterBlocks;
  if (threadIdx.x == 0) ring.init();
  device::Cluster<kClusterBlocks>::sync();
  if (threadIdx.x < kWorkers) {
    device::raise_registers<kWorkerRegisters>();
    Worker<S>(ring, product, block).run(cluster, clusters);
  } else {
    device::lower_registers<kLoaderRegisters>();
    if (threadIdx.x == kWorkers) load(ring, product, block, cluster, clusters);
    __syncwarp();
  }
  // The other block may still write here.
  device::Cluster<kClusterBlocks>::sync();
#endif
}

}  // namespace ft::cuda::fused
