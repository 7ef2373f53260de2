// SPDX-License-Identifier: BSD-3-Clause
// out = x weight^T for up to 64 tokens by mma.sync: 16 weight rows are the A operand, 8 tokens the
// B operand, so that the weights pass once from memory through registers, in their stored type.
//
// One block per multiprocessor owns a run of row tiles of 16 rows. Its 8 warps are 4 column groups
// x 2 row sets: a warp multiplies every second row tile with a quarter of the columns. It fetches
// the weights through a ring of its own in shared memory, which no other warp waits for and which
// is filled before the kernel in front has ended. x comes in slabs of columns, which the two warps
// of a column group share. At the end of a block of row tiles the four groups' sums are added in
// order.
//
// A sum's order depends on the weight's columns alone: groups are contiguous, a group adds its
// columns in order, 16 per product. So a token's result does not depend on the other tokens.
//
// A product takes any 16 columns in any order, if both operands agree. So lane (g, t) of A holds 16
// neighbours, columns 16 t .. 16 t + 15 of 64, of rows g and g + 8: 16-byte loads, no re-layout.
#pragma once

#include <optional>

#include "cuda/launch.h"
#include "cuda/skinny_linear.h"
#include "cuda/skinny_stream.cuh"
#include "device/barrier.cuh"
#include "device/int8.cuh"
#include "device/pdl.cuh"
#include "device/tensor_core.cuh"

namespace ft::cuda::skinny {

// The sums of a warp: [row tile, token tile, register of the product].
template <typename W, int kTokenTiles>
using Sums = float[Sizes<W, kTokenTiles>::kTiles][kTokenTiles][4];

// Scale and bias of a block's rows, 32 rows to a register; read early, since memory is far.
template <typename T, typename W, int kTokenTiles, bool kGated>
class Affine {
  static constexpr int kRows = Sizes<W, kTokenTiles>::kTiles * kTileRows;
  static constexpr int kRegisters = (kRows + 31) / 32;
  static constexpr float kFactor = Sizes<W, kTokenTiles>::kIsInt8 ? device::Int8<T>::kSumFactor : 1;

 public:
  __device__ void fetch(const Problem<T, W, kGated>& problem, const Share& share, int block) {
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) {
      const int at = i * 32 + threadIdx.x % 32;
      const int tile = block + at / kTileRows;
      const int first = share.first_row(tile), row = problem.weight_row(first, at % kTileRows);
      const bool valid =
          tile < share.tiles && problem.result_row(first, at % kTileRows) < problem.rows;
      scale_[i] = valid ? problem.scale_of(row) : 0.0f;
      bias_[i] = valid ? problem.bias_of(row) : 0.0f;
    }
  }
  // Scales with the factor of packed int8. By all lanes; `row` [0, kRows) of the block is lane / 4
  // + a multiple of 8 known to the compiler.
  __device__ __forceinline__ float2 of(int first_of_eight) const {
    const int lane = first_of_eight % 32 + threadIdx.x % 32 / 4;
    return {__shfl_sync(0xFFFFFFFFu, scale_[first_of_eight / 32], lane) * kFactor,
            __shfl_sync(0xFFFFFFFFu, bias_[first_of_eight / 32], lane)};
  }

 private:
  float scale_[kRegisters], bias_[kRegisters];
};

// Adds the next stage of the ring, the slab's columns from `chunk` on, to the sums of a row tile.
template <typename T, typename W, int kTokenTiles, bool kGated>
__device__ __forceinline__ void multiply(float (&sums)[kTokenTiles][4],
                                         Ring<T, W, kTokenTiles, kGated>& ring,
                                         const Slab<T, W, kTokenTiles, kGated>& x,
                                         int first_chunk) {
  ring.load();
#pragma unroll
  for (int chunk = 0; chunk < Sizes<W, kTokenTiles>::kStageChunks; ++chunk) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[2][4];
      ring.operand(a[0], chunk, 2 * half);
      ring.operand(a[1], chunk, 2 * half + 1);
#pragma unroll
      for (int tile = 0; tile < kTokenTiles; ++tile) {
        const uint4 b = x.operand(first_chunk + chunk, half, tile);
        device::product<T>(sums[tile], a[0], b.x, b.y);
        device::product<T>(sums[tile], a[1], b.z, b.w);
      }
    }
  }
}

// Where the threads of a block meet. Not __syncthreads: beside bar.sync of some warps racecheck
// overlooks it.
class Meeting {
 public:
  __device__ explicit Meeting(uint64_t* barrier) : barrier_(barrier) {
    if (threadIdx.x == 0) device::barrier_init(barrier, kThreads);
    __syncthreads();
  }
  __device__ void wait() {
    device::barrier_arrive(barrier_);
    device::barrier_wait(barrier_, parity_);
    parity_ ^= 1;
  }

 private:
  uint64_t* barrier_;
  int parity_ = 0;
};

// Adds the sums of all column groups in their order and stores them; column group 0 does the work.
template <typename T, typename W, int kTokenTiles, bool kGated>
__device__ __forceinline__ void finish(const Sums<W, kTokenTiles>& sums, float4* shared,
                                       const Problem<T, W, kGated>& problem, const Share& share,
                                       const Affine<T, W, kTokenTiles, kGated>& affine, int block,
                                       int group, int row_set, Meeting& meeting) {
  using S = Sizes<W, kTokenTiles>;
  const int lane = threadIdx.x % 32;
  const auto place = [&](int of_group, int tile, int token_tile) -> float4& {
    const int first = ((of_group - 1) * kRowSets + row_set) * S::kRound + tile % S::kRound;
    return shared[(first * kTokenTiles + token_tile) * 32 + lane];
  };
#pragma unroll
  for (int tile = 0; tile < S::kTiles; ++tile) {
    if (tile % S::kRound == 0) {
      meeting.wait();
      if (group > 0) {
#pragma unroll
        for (int i = tile; i < tile + S::kRound && i < S::kTiles; ++i) {
#pragma unroll
          for (int j = 0; j < kTokenTiles; ++j) {
            place(group, i, j) = {sums[i][j][0], sums[i][j][1], sums[i][j][2], sums[i][j][3]};
          }
        }
      }
      meeting.wait();
    }
    if (group > 0 || block + tile >= share.tiles || tile >= share.block_tiles) continue;
    const int row = share.first_row(block + tile) + lane / 4;
    const float2 upper = affine.of(tile * kTileRows), lower = affine.of(tile * kTileRows + 8);
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
      float4 sum = {sums[tile][j][0], sums[tile][j][1], sums[tile][j][2], sums[tile][j][3]};
      for (int of = 1; of < kColumnGroups; ++of) {
        const float4 more = place(of, tile, j);
        sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
      }
      const int token = j * kTileTokens + lane % 4 * 2;
      sum = {fmaf(sum.x, upper.x, upper.y), fmaf(sum.y, upper.x, upper.y),
             fmaf(sum.z, lower.x, lower.y), fmaf(sum.w, lower.x, lower.y)};
      const auto store = [&](int at_token, int at_row, float value) {
        if (at_token < problem.tokens && at_row < problem.rows) {
          problem.store(at_token, at_row, value);
        }
      };
      if constexpr (kGated) {
        store(token, row, activate(problem.activation, sum.x) * sum.z);
        store(token + 1, row, activate(problem.activation, sum.y) * sum.w);
      } else {
        store(token, row, sum.x);
        store(token + 1, row, sum.y);
        store(token, row + 8, sum.z);
        store(token + 1, row + 8, sum.w);
      }
    }
  }
}

template <typename T, typename W, int kTokenTiles, bool kGated>
__global__ void __launch_bounds__(Sizes<W, kTokenTiles>::kBoundThreads,
                                  Sizes<W, kTokenTiles>::kBoundBlocks)
    skinny_mma_kernel(const __grid_constant__ Problem<T, W, kGated> problem) {
  using S = Sizes<W, kTokenTiles>;
  extern __shared__ __align__(128) char shared[];
  __shared__ uint64_t barrier;
  Meeting meeting(&barrier);
  // The same for the whole warp, and the compiler shall know it.
  const int warp = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0);
  const int group = warp % kColumnGroups, row_set = warp / kColumnGroups;
  const Share share(problem.rows, problem.tile_rows(), problem.columns,
                    kPieceOfX << problem.slab_shift, S::kTiles, group, row_set);
  Ring<T, W, kTokenTiles, kGated> ring(shared + warp * S::kRingBytes, problem, share);
  char* const x_memory = shared + kWarps * S::kRingBytes;
  Slab<T, W, kTokenTiles, kGated> x(x_memory + group * S::kSlabBytes, problem, share, group,
                                    row_set);
  Affine<T, W, kTokenTiles, kGated> affine;
  affine.fetch(problem, share, 0);
  device::wait_for_predecessor();
  x.fetch(share.begin);
  for (int i = 0; i < share.blocks; ++i) {
    const int block = i * share.block_tiles;
    const int tiles = min(share.block_tiles, share.tiles - block);
    float sums[S::kTiles][kTokenTiles][4] = {};
    for (int slab = share.begin; slab < share.end; slab += share.slab) {
      x.turn();
      const int next = slab + share.slab;
      x.fetch(next < share.end ? next : share.begin);
      const int chunks = (min(next, share.end) - slab) / kChunk;
#pragma unroll
      for (int tile = 0; tile < S::kTiles; ++tile) {
        if (tile >= tiles) break;
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; chunk += S::kStageChunks) {
          multiply<T, W, kTokenTiles, kGated>(sums[tile], ring, x, chunk);
        }
      }
    }
    finish<T, W, kTokenTiles, kGated>(sums, reinterpret_cast<float4*>(x_memory), problem, share,
                                      affine, block, group, row_set, meeting);
    if (i + 1 == share.blocks) break;
    affine.fetch(problem, share, block + share.block_tiles);
    meeting.wait();
  }
}

template <typename T, typename W, int kTokenTiles, bool kGated>
void launch_tiles(const char* op, Problem<T, W, kGated> problem, int64_t stream) {
  using S = Sizes<W, kTokenTiles>;
  problem.slab_shift = S::kFullShift;
  if (kTokenTiles == 1) {
    constexpr int kMostPieces = 32 * kRowSets;
    problem.slab_shift = 0;
    while (2 << problem.slab_shift <= std::min(S::kSlabPieces / problem.tokens, kMostPieces)) {
      ++problem.slab_shift;
    }
  }
  constexpr auto kernel = skinny_mma_kernel<T, W, kTokenTiles, kGated>;
  static const bool allowed = (allow_shared(op, kernel, S::kSharedBytes), true);
  static_cast<void>(allowed);
  const int tile_rows = problem.tile_rows(), tiles = (problem.rows + tile_rows - 1) / tile_rows;
  launch(op, kernel, std::min(tiles, num_multiprocessors()), kThreads, S::kSharedBytes, stream,
         problem);
}

template <typename T, typename W, bool kGated>
void launch_problem(const char* op, const Problem<T, W, kGated>& problem, int64_t stream) {
  if (problem.tokens <= 8) return launch_tiles<T, W, 1>(op, problem, stream);
  if (problem.tokens <= 16) return launch_tiles<T, W, 2>(op, problem, stream);
  if (problem.tokens <= 32) return launch_tiles<T, W, 4>(op, problem, stream);
  launch_tiles<T, W, 8>(op, problem, stream);
}

template <typename T, typename W, bool kGated>
void run_product(const SkinnyProduct& product, const Tensor& x, const Tensor& weight,
                 const Tensor* bias, bool is_added) {
  Problem<T, W, kGated> problem{};
  problem.out = product.out.data;
  problem.out_is_float = product.out.dtype == DType::kFloat32;
  problem.x = x.as<T>();
  problem.x_stride = static_cast<int>(x.strides[0]);
  problem.weight = weight.as<W>();
  problem.weight_stride = static_cast<int>(weight.strides[0]);
  problem.scale = product.scale == nullptr ? nullptr : product.scale->as<float>();
  problem.bias = bias == nullptr ? nullptr : bias->as<T>();
  problem.tokens = static_cast<int>(x.shape[0]);
  problem.rows = static_cast<int>(product.out.shape[1]);
  problem.columns = static_cast<int>(weight.shape[1]);
  problem.activation = product.activation.value_or(Activation{});
  problem.first_activated = kGated ? problem.rows : first_activated(product);
  problem.is_added = is_added;
  launch_problem(product.op, problem, product.stream);
}

// The arguments have been checked (skinny_linear.h), and none is empty. A second product is added
// by a second launch.
template <typename T, typename W>
void run(const SkinnyProduct& product) {
  if (product.is_gated) {
    return run_product<T, W, true>(product, product.x, product.weight, product.bias, false);
  }
  run_product<T, W, false>(product, product.x, product.weight, product.bias, false);
  if (product.second_x == nullptr) return;
  run_product<T, W, false>(product, *product.second_x, *product.second_weight, nullptr, true);
}

}  // namespace ft::cuda::skinny
