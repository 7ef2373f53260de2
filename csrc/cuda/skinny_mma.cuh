// SPDX-License-Identifier: BSD-3-Clause
// out = x weight^T for up to 64 tokens by mma.sync: 16 weight rows are the A operand, 8 tokens the B
// operand, so that the weights pass once from memory through registers, in their stored type.
//
// One block per multiprocessor owns a run of row tiles of 16 rows. Its 8 warps are 4 column groups x
// 2 row sets: a warp multiplies every second row tile with a quarter of the columns. It fetches the
// weights through a ring of its own in shared memory, which no other warp waits for and which is
// filled before the kernel in front has ended. x comes in slabs of columns, which the two warps of a
// column group share. At the end of a block of row tiles the four groups' sums are added in order.
//
// A sum's order depends on the weight's columns alone: groups are contiguous, a group adds its
// columns in order, 16 per product. So a token's result does not depend on the other tokens.
//
// A product takes any 16 columns in any order, if both operands agree. So lane (g, t) of A holds 16
// neighbours, columns 16 t .. 16 t + 15 of 64, of rows g and g + 8: 16-byte loads, no re-layout.
#pragma once

#include <algorithm>

#include "cuda/launch.h"
#include "device/pdl.cuh"
#include "device/skinny.cuh"
#include "device/vec.cuh"

namespace ft::cuda::skinny {

constexpr int kColumnGroups = 4;
constexpr int kRowSets = 2;
constexpr int kWarps = kColumnGroups * kRowSets;
constexpr int kThreads = kWarps * 32;
constexpr int kTileRows = 16;
constexpr int kTileTokens = 8;
constexpr int kChunk = 64;          // columns that the 4 lanes of a row hold: 16 each
constexpr int kGroupMultiple = 128;  // columns of a group
constexpr int kPieceBytes = 16;
constexpr int kPieceOfX = 8;  // columns
constexpr int kChunkBytesOfX = kChunk * 2;

// Sizes for weights of type W and up to 8 * kTokenTiles tokens. All fit into the 99 KiB of shared
// memory of sm_89, and two blocks into sm_90, where the next kernel's ring fills while this one ends.
template <typename W, int kTokenTiles>
struct Sizes {
  static constexpr bool kIsInt8 = sizeof(W) == 1;
  static constexpr int kTiles = kTokenTiles <= 2 ? 6 : 3;  // row tiles whose sums a warp keeps
  static constexpr int kStageChunks = kIsInt8 && kTokenTiles <= 2 ? 2 : 1;
  static constexpr int kStageColumns = kStageChunks * kChunk;
  static constexpr int kRowBytes = kStageColumns * static_cast<int>(sizeof(W));
  static constexpr int kRowPieces = kRowBytes / kPieceBytes;
  static constexpr int kStageBytes = kTileRows * kRowBytes;
  static constexpr int kLoads = kRowPieces / 4;  // of a lane, of one of its rows
  static constexpr int kStages = (kTokenTiles == 8 ? 7 : 10) * 1024 / kStageBytes;
  static constexpr int kRingBytes = kStages * kStageBytes;

  // Of x a column group holds a slab: every token's next 2^n pieces, and a piece between the tokens
  // so that eight of them lie in different banks.
  static constexpr int kSlabPieces = kTokenTiles == 8 ? 512 : 256;
  static constexpr int kSlabLoads = kSlabPieces / (32 * kRowSets);  // of a thread
  static constexpr int kSlabBytes = (kSlabPieces + kTokenTiles * kTileTokens) * kPieceBytes;

  // The sums of column groups 1 to 3 of `kRound` row tiles pass through the memory of x.
  static constexpr int kTileSumBytes =
      (kColumnGroups - 1) * kRowSets * kTokenTiles * 32 * static_cast<int>(sizeof(float4));
  static constexpr int kXBytes = std::max(kColumnGroups * kSlabBytes, 18 * 1024);
  static constexpr int kRound = std::min(kTiles, kXBytes / kTileSumBytes);

  static constexpr int kSharedBytes = kWarps * kRingBytes + kXBytes;
  static constexpr int kMinBlocks = kTokenTiles == 8 ? 1 : 2;
};

template <typename T, typename W>
struct Problem {
  void* out;  // [tokens, rows] of T or float
  bool out_is_float;
  const T* x;
  int x_stride;
  const W* weight;
  int weight_stride;
  const float* scale;  // of each row; only for int8
  const T* bias;       // null for none
  int tokens, rows, columns;
  int slab_shift;  // log2 of a token's pieces in a slab

  __device__ float scale_of(int row) const { return scale == nullptr ? 1.0f : scale[row]; }
  __device__ float bias_of(int row) const {
    return bias == nullptr ? 0.0f : device::to_float(bias[row]);
  }
  __device__ void store(int token, int row, float value) const {
    const int64_t at = static_cast<int64_t>(token) * rows + row;
    if (out_is_float) {
      static_cast<float*>(out)[at] = value;
    } else {
      static_cast<T*>(out)[at] = device::from_float<T>(value);
    }
  }
};

// What one warp computes: row tiles first_tile + kRowSets * i for i < tiles, `block_tiles` of them at
// a time, over columns [begin, end), `slab` of them at a time.
struct Share {
  int first_tile, tiles, blocks, block_tiles;
  int begin, end, slab;

  __device__ Share(int rows, int columns, int slab, int most_tiles, int group, int row_set)
      : slab(slab) {
    const int64_t all_tiles = (rows + kTileRows - 1) / kTileRows;
    const int first = static_cast<int>(all_tiles * blockIdx.x / gridDim.x);
    const int last = static_cast<int>(all_tiles * (blockIdx.x + 1) / gridDim.x);
    const int most = (last - first + kRowSets - 1) / kRowSets;  // of a row set
    first_tile = first + row_set;
    tiles = (last - first + kRowSets - 1 - row_set) / kRowSets;
    blocks = (most + most_tiles - 1) / most_tiles;
    block_tiles = (most + blocks - 1) / blocks;
    const int units = (columns + kGroupMultiple - 1) / kGroupMultiple;
    begin = units * group / kColumnGroups * kGroupMultiple;
    end = units * (group + 1) / kColumnGroups * kGroupMultiple;
  }
  __device__ int first_row(int tile) const { return (first_tile + kRowSets * tile) * kTileRows; }
};

// The order in which a warp needs the stages of its weights: the columns of a slab, then the tiles of
// a block, then the slabs, then the blocks.
struct Cursor {
  int block = 0, tile = 0, slab, slab_end, column;

  __device__ explicit Cursor(const Share& share) {
    enter(share, share.begin);
    if (share.begin == share.end) tile = share.tiles;
  }
  __device__ bool is_at_end(const Share& share) const { return tile >= share.tiles; }
  __device__ void advance(const Share& share, int columns) {
    column += columns;
    if (column < slab_end) return;
    column = slab;
    if (++tile < min(block + share.block_tiles, share.tiles)) return;
    if (slab_end == share.end) {
      block = tile;
      enter(share, share.begin);
    } else {
      tile = block;
      enter(share, slab_end);
    }
  }
  __device__ void enter(const Share& share, int at) {
    column = slab = at;
    slab_end = min(at + share.slab, share.end);
  }
};

// A warp's private stages of weights: 16 rows of kRowBytes, pieces swapped so that the 8 lanes that
// are served at a time find theirs in different banks.
template <typename T, typename W, int kTokenTiles>
class Ring {
  using S = Sizes<W, kTokenTiles>;
  static constexpr int kCopyRows = 32 / S::kRowPieces;  // that one copy instruction fills

 public:
  uint32_t pieces[2][S::kLoads][4];  // of the current stage: of this lane's rows g and g + 8

  __device__ Ring(char* stages, const Problem<T, W>& problem, const Share& share)
      : stages_(stages), problem_(problem), share_(share), next_(share) {
    const int lane = threadIdx.x % 32, piece = lane % S::kRowPieces, g = lane / 4, t = lane % 4;
    copy_row_ = lane / S::kRowPieces;
    copy_column_ = piece * static_cast<int>(kPieceBytes / sizeof(W));
    copy_from_ = problem.weight + copy_row_ * static_cast<int64_t>(problem.weight_stride);
    copy_to_ = copy_row_ * S::kRowBytes + swapped(copy_row_, piece) * kPieceBytes;
#pragma unroll
    for (int i = 0; i < S::kLoads; ++i) {
      const int own = S::kIsInt8 ? 4 * i + t : S::kLoads * t + i;
      load_from_[i] = g * S::kRowBytes + swapped(g, own) * kPieceBytes;
    }
    policy_ = device::evict_first_policy();
#pragma unroll 1
    for (int stage = 0; stage < S::kStages; ++stage) fetch(stages_ + stage * S::kStageBytes);
  }

  // Loads the next stage into `pieces` and refills its memory.
  __device__ __forceinline__ void load() {
    device::wait_for_copies<S::kStages - 1>();
    __syncwarp();
    char* const stage = stages_ + stage_ * S::kStageBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < S::kLoads; ++i) {
        const uint4 piece = *reinterpret_cast<const uint4*>(stage + load_from_[i] +
                                                            half * kTileRows / 2 * S::kRowBytes);
        pieces[half][i][0] = piece.x;
        pieces[half][i][1] = piece.y;
        pieces[half][i][2] = piece.z;
        pieces[half][i][3] = piece.w;
      }
    }
    __syncwarp();
    fetch(stage);
    stage_ = stage_ + 1 == S::kStages ? 0 : stage_ + 1;
  }

  // A operand of product j of 4 over chunk `chunk` of the current stage.
  __device__ __forceinline__ void operand(uint32_t (&a)[4], int chunk, int j) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (S::kIsInt8) {
        a[half] = device::widen_even(pieces[half][chunk][j], T{});
        a[half + 2] = device::widen_even(pieces[half][chunk][j] >> 8, T{});
      } else {
        a[half] = pieces[half][j / 2][j % 2 * 2];
        a[half + 2] = pieces[half][j / 2][j % 2 * 2 + 1];
      }
    }
  }

 private:
  static __device__ int swapped(int row, int piece) {
    return S::kRowPieces == 4 ? piece : piece ^ row % 2 * (S::kIsInt8 ? 4 : 1);
  }

  __device__ __forceinline__ void fetch(char* stage) {
    if (!next_.is_at_end(share_)) {
      const int row = share_.first_row(next_.tile), column = next_.column + copy_column_;
      const W* const from =
          copy_from_ + row * static_cast<int64_t>(problem_.weight_stride) + column;
#pragma unroll
      for (int i = 0; i < kTileRows; i += kCopyRows) {
        device::copy_async(stage + copy_to_ + i * S::kRowBytes,
                           from + i * static_cast<int64_t>(problem_.weight_stride),
                           row + copy_row_ + i < problem_.rows && column < problem_.columns,
                           policy_);
      }
      next_.advance(share_, S::kStageColumns);
    }
    device::commit_copies();
  }

  char* stages_;
  const Problem<T, W>& problem_;
  const Share& share_;
  Cursor next_;
  int stage_ = 0;
  int copy_row_, copy_column_, copy_to_;  // of this lane in a stage
  const W* copy_from_;
  int load_from_[S::kLoads];
  uint64_t policy_;
};

// x of a column group, one slab at a time; the next one waits in the registers of its two warps.
template <typename T, typename W, int kTokenTiles>
class Slab {
  using S = Sizes<W, kTokenTiles>;

 public:
  __device__ Slab(char* memory, const Problem<T, W>& problem, const Share& share, int group,
                  int row_set)
      : memory_(memory), problem_(problem), share_(share), group_(group) {
    const int lane = threadIdx.x % 32;
    // Lanes of the B operand beyond the tokens read some token: their sums are dropped.
    const int token = kTokenTiles == 1 ? min(lane / 4, problem.tokens - 1) : lane / 4;
    operand_ = memory + token * pitch() + lane % 4 * 2 * kPieceBytes;
    thread_ = row_set * 32 + lane;
  }

  // Starts to read the slab at column `begin` of the matrix; the kernel in front has ended.
  __device__ void fetch(int begin) {
    const int end = min(share_.end, problem_.columns);
#pragma unroll
    for (int i = 0; i < S::kSlabLoads; ++i) {
      const int at = thread_ + i * 32 * kRowSets;
      const int token = at >> shift(), column = begin + (at & ((1 << shift()) - 1)) * kPieceOfX;
      next_[i] = uint4{};
      if (token < problem_.tokens && column < end) {
        next_[i] =
            *reinterpret_cast<const uint4*>(problem_.x + token * problem_.x_stride + column);
      }
    }
  }

  // What was fetched becomes the current slab, when both warps are done with the one before.
  __device__ void turn() {
    barrier();
#pragma unroll
    for (int i = 0; i < S::kSlabLoads; ++i) {
      const int at = thread_ + i * 32 * kRowSets;
      const int token = at >> shift(), piece = at & ((1 << shift()) - 1);
      if (kTokenTiles > 1 || token < problem_.tokens) {
        *reinterpret_cast<uint4*>(memory_ + token * pitch() + piece * kPieceBytes) =
            S::kIsInt8 ? device::interleave(next_[i]) : next_[i];
      }
    }
    barrier();
  }

  // B operands of products 2 half and 2 half + 1 over chunk `chunk` of the current slab.
  __device__ __forceinline__ uint4 operand(int chunk, int half, int token_tile) const {
    return *reinterpret_cast<const uint4*>(operand_ + token_tile * kTileTokens * pitch() +
                                           chunk * kChunkBytesOfX + half * kPieceBytes);
  }

 private:
  __device__ __forceinline__ int shift() const {
    if constexpr (kTokenTiles == 1) return problem_.slab_shift;
    return S::kSlabPieces / (kTokenTiles * kTileTokens) == 16 ? 4 : 3;
  }
  __device__ __forceinline__ int pitch() const {
    return ((1 << shift()) + 1) * kPieceBytes;
  }
  __device__ void barrier() const { device::named_barrier(1 + group_, 32 * kRowSets); }

  char* memory_;
  const Problem<T, W>& problem_;
  const Share& share_;
  int group_;
  const char* operand_;
  int thread_;
  uint4 next_[S::kSlabLoads];
};

// The sums of a warp: [row tile, token tile, register of the product].
template <typename T, typename W, int kTokenTiles>
using Sums = float[Sizes<W, kTokenTiles>::kTiles][kTokenTiles][4];

// Scale and bias of a block's rows, 32 rows to a register; read early, since memory is far.
template <typename T, typename W, int kTokenTiles>
class Affine {
  static constexpr int kRows = Sizes<W, kTokenTiles>::kTiles * kTileRows;
  static constexpr int kRegisters = (kRows + 31) / 32;

 public:
  __device__ void fetch(const Problem<T, W>& problem, const Share& share, int block) {
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) {
      const int at = i * 32 + threadIdx.x % 32;
      const int tile = block + at / kTileRows;
      const int row = share.first_row(tile) + at % kTileRows;
      const bool valid = tile < share.tiles && row < problem.rows;
      scale_[i] = valid ? problem.scale_of(row) : 0.0f;
      bias_[i] = valid ? problem.bias_of(row) : 0.0f;
    }
  }
  // By all lanes; `row` [0, kRows) of the block is lane / 4 + a multiple of 8 known to the compiler.
  __device__ __forceinline__ float2 of(int first_of_eight) const {
    const int lane = first_of_eight % 32 + threadIdx.x % 32 / 4;
    return {__shfl_sync(0xFFFFFFFFu, scale_[first_of_eight / 32], lane),
            __shfl_sync(0xFFFFFFFFu, bias_[first_of_eight / 32], lane)};
  }

 private:
  float scale_[kRegisters], bias_[kRegisters];
};

// Adds the next stage of the ring, the slab's columns from `chunk` on, to the sums of a row tile.
template <typename T, typename W, int kTokenTiles>
__device__ __forceinline__ void multiply(float (&sums)[kTokenTiles][4], Ring<T, W, kTokenTiles>& ring,
                                         const Slab<T, W, kTokenTiles>& x, int first_chunk) {
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
        device::product(sums[tile], a[0], b.x, b.y, T{});
        device::product(sums[tile], a[1], b.z, b.w, T{});
      }
    }
  }
}

// Adds the sums of all column groups in their order and stores them; column group 0 does the work.
template <typename T, typename W, int kTokenTiles>
__device__ __forceinline__ void finish(const Sums<T, W, kTokenTiles>& sums, float4* shared,
                                       const Problem<T, W>& problem, const Share& share,
                                       const Affine<T, W, kTokenTiles>& affine, int block,
                                       int group, int row_set) {
  using S = Sizes<W, kTokenTiles>;
  const int lane = threadIdx.x % 32;
  const auto place = [&](int of_group, int tile, int token_tile) -> float4& {
    const int first = ((of_group - 1) * kRowSets + row_set) * S::kRound + tile % S::kRound;
    return shared[(first * kTokenTiles + token_tile) * 32 + lane];
  };
#pragma unroll
  for (int tile = 0; tile < S::kTiles; ++tile) {
    if (tile % S::kRound == 0) {
      __syncthreads();
      if (group > 0) {
#pragma unroll
        for (int i = tile; i < tile + S::kRound && i < S::kTiles; ++i) {
#pragma unroll
          for (int j = 0; j < kTokenTiles; ++j) {
            place(group, i, j) = {sums[i][j][0], sums[i][j][1], sums[i][j][2], sums[i][j][3]};
          }
        }
      }
      __syncthreads();
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
      const auto store = [&](int at_token, int at_row, float value, float2 scale_bias) {
        if (at_token < problem.tokens && at_row < problem.rows) {
          problem.store(at_token, at_row, fmaf(value, scale_bias.x, scale_bias.y));
        }
      };
      store(token, row, sum.x, upper);
      store(token + 1, row, sum.y, upper);
      store(token, row + 8, sum.z, lower);
      store(token + 1, row + 8, sum.w, lower);
    }
  }
}

template <typename T, typename W, int kTokenTiles>
__global__ void __launch_bounds__(kThreads, Sizes<W, kTokenTiles>::kMinBlocks)
    skinny_mma_kernel(const __grid_constant__ Problem<T, W> problem) {
  using S = Sizes<W, kTokenTiles>;
  device::launch_dependents();
  extern __shared__ __align__(128) char shared[];
  // The same for the whole warp, and the compiler shall know it.
  const int warp = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0);
  const int group = warp % kColumnGroups, row_set = warp / kColumnGroups;
  const Share share(problem.rows, problem.columns, kPieceOfX << problem.slab_shift, S::kTiles,
                    group, row_set);
  Ring<T, W, kTokenTiles> ring(shared + warp * S::kRingBytes, problem, share);
  char* const x_memory = shared + kWarps * S::kRingBytes;
  Slab<T, W, kTokenTiles> x(x_memory + group * S::kSlabBytes, problem, share, group, row_set);
  Affine<T, W, kTokenTiles> affine;
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
          multiply<T, W, kTokenTiles>(sums[tile], ring, x, chunk);
        }
      }
    }
    finish<T, W, kTokenTiles>(sums, reinterpret_cast<float4*>(x_memory), problem, share, affine,
                              block, group, row_set);
    if (i + 1 == share.blocks) break;
    affine.fetch(problem, share, block + share.block_tiles);
    __syncthreads();
  }
}

template <typename T, typename W, int kTokenTiles>
void launch_tiles(const char* op, Problem<T, W> problem, int64_t stream) {
  using S = Sizes<W, kTokenTiles>;
  const int tokens = kTokenTiles == 1 ? problem.tokens : kTokenTiles * kTileTokens;
  problem.slab_shift = 0;
  while ((tokens << (problem.slab_shift + 1)) <= S::kSlabPieces) ++problem.slab_shift;
  constexpr auto kernel = skinny_mma_kernel<T, W, kTokenTiles>;
  static const bool allowed = (allow_shared(op, kernel, S::kSharedBytes), true);
  static_cast<void>(allowed);
  const int tiles = (problem.rows + kTileRows - 1) / kTileRows;
  launch(op, kernel, std::min(tiles, num_multiprocessors()), kThreads, S::kSharedBytes, stream,
         problem);
}

// The arguments have been checked (skinny_linear.h), and none is empty. bias: null for none.
template <typename T, typename W>
Problem<T, W> make_problem(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                           const Tensor* bias) {
  check_that(op, "weight", weight.shape[1] * sizeof(W) % kPieceBytes == 0,
             "has rows whose length is no multiple of 16 bytes");
  Problem<T, W> problem{};
  problem.out = out.data;
  problem.out_is_float = out.dtype == DType::kFloat32;
  problem.x = x.as<T>();
  problem.x_stride = static_cast<int>(x.strides[0]);
  problem.weight = weight.as<W>();
  problem.weight_stride = static_cast<int>(weight.strides[0]);
  problem.bias = bias == nullptr ? nullptr : bias->as<T>();
  problem.tokens = static_cast<int>(x.shape[0]);
  problem.rows = static_cast<int>(weight.shape[0]);
  problem.columns = static_cast<int>(weight.shape[1]);
  return problem;
}

template <typename T, typename W>
void run(const char* op, const Problem<T, W>& problem, int64_t stream) {
  if (problem.tokens <= 8) return launch_tiles<T, W, 1>(op, problem, stream);
  if (problem.tokens <= 16) return launch_tiles<T, W, 2>(op, problem, stream);
  if (problem.tokens <= 32) return launch_tiles<T, W, 4>(op, problem, stream);
  launch_tiles<T, W, 8>(op, problem, stream);
}

}  // namespace ft::cuda::skinny
