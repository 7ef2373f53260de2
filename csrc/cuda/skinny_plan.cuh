// SPDX-License-Identifier: BSD-3-Clause
// Sizes of the skinny products of skinny_mma.cuh, and what each warp computes in which order.
#pragma once

#include <algorithm>

#include "cuda/activation.cuh"
#include "device/vec.cuh"

namespace ft::cuda::skinny {

constexpr int kColumnGroups = 4;
constexpr int kRowSets = 2;
constexpr int kWarps = kColumnGroups * kRowSets;
constexpr int kThreads = kWarps * 32;
constexpr int kTileRows = 16;
constexpr int kTileTokens = 8;
constexpr int kChunk = 64;           // columns that the 4 lanes of a row hold: 16 each
constexpr int kGroupMultiple = 128;  // columns of a group
constexpr int kPieceBytes = 16;
constexpr int kPieceOfX = 8;  // columns
constexpr int kChunkBytesOfX = kChunk * 2;

// Sizes for weights of type W and up to 8 * kTokenTiles tokens. All fit into the 99 KiB of shared
// memory of sm_89, and two blocks into sm_90, where the next kernel's ring fills while this one
// ends.
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

  // Of x a column group holds a slab: every token's next 2^n pieces, one for each thread of its
  // warps at most, and a piece between the tokens so that eight of them lie in different banks.
  static constexpr int kSlabPieces = kTokenTiles == 8 ? 512 : 256;
  static constexpr int kFullShift =
      kSlabPieces / (kTokenTiles * kTileTokens) == 16 ? 4 : 3;  // n for all tokens, beyond one tile
  static constexpr int kSlabLoads = kSlabPieces / (32 * kRowSets);  // of a thread
  static constexpr int kSlabBytes = (kSlabPieces + kTokenTiles * kTileTokens) * kPieceBytes;

  // The sums of column groups 1 to 3 of `kRound` row tiles pass through the memory of x.
  static constexpr int kTileSumBytes =
      (kColumnGroups - 1) * kRowSets * kTokenTiles * 32 * static_cast<int>(sizeof(float4));
  static constexpr int kXBytes = std::max(kColumnGroups * kSlabBytes, 18 * 1024);
  static constexpr int kRound = std::min(kTiles, kXBytes / kTileSumBytes);

  static constexpr int kSharedBytes = kWarps * kRingBytes + kXBytes;
  // What the compiler is told, for 128 registers a thread, or 200 where that is not enough.
  static constexpr int kBoundThreads = kTokenTiles == 8 ? 320 : kThreads;
  static constexpr int kBoundBlocks = kTokenTiles == 8 ? 1 : 2;
};

template <typename T, typename W, bool kGated>
struct Problem {
  void* out;  // [tokens, rows] of T or float
  bool out_is_float;
  const T* x;
  int x_stride;
  const W* weight;
  int weight_stride;
  const float* scale;         // of each row; only for int8
  const T* bias;              // null for none
  int tokens, rows, columns;  // rows: of the result, half of the weight's with a gate
  int slab_shift;             // log2 of a token's pieces in a slab
  Activation activation;
  int first_activated;  // column, behind the last one for none; without a gate
  bool is_added;        // to what `out` holds

  // Of a tile's 16 weight rows, the last eight follow the first ones; with a gate, they are those
  // that the first ones gate, half of the weight further on.
  __host__ __device__ int tile_rows() const { return kGated ? kTileRows / 2 : kTileRows; }
  // The row of the result, and of the weight, of row `at` of the tile that starts with row `first`.
  __device__ int result_row(int first, int at) const { return first + (kGated ? at % 8 : at); }
  __device__ int weight_row(int first, int at) const {
    return result_row(first, at) + (kGated && at >= 8 ? rows : 0);
  }

  __device__ float scale_of(int row) const { return scale == nullptr ? 1.0f : scale[row]; }
  __device__ float bias_of(int row) const {
    return bias == nullptr ? 0.0f : device::to_float(bias[row]);
  }
  __device__ void store(int token, int row, float value) const {
    const int64_t at = static_cast<int64_t>(token) * rows + row;
    if (is_added) value += device::to_float(static_cast<T*>(out)[at]);
    if (row >= first_activated) value = activate(activation, value);
    if (out_is_float) {
      static_cast<float*>(out)[at] = value;
    } else {
      static_cast<T*>(out)[at] = device::from_float<T>(value);
    }
  }
};

// What one warp computes: row tiles first_tile + kRowSets * i for i < tiles, `block_tiles` of them
// at a time, over columns [begin, end), `slab` of them at a time.
struct Share {
  int first_tile, tiles, blocks, block_tiles, tile_rows;
  int begin, end, slab;

  __device__ Share(int rows, int tile_rows, int columns, int slab, int most_tiles, int group,
                   int row_set)
      : tile_rows(tile_rows), slab(slab) {
    const unsigned all_tiles = (rows + tile_rows - 1) / tile_rows;
    const int first = all_tiles * blockIdx.x / gridDim.x;
    const int last = all_tiles * (blockIdx.x + 1) / gridDim.x;
    const int most = (last - first + kRowSets - 1) / kRowSets;  // of a row set
    first_tile = first + row_set;
    tiles = (last - first + kRowSets - 1 - row_set) / kRowSets;
    blocks = (most + most_tiles - 1) / most_tiles;
    block_tiles = (most + blocks - 1) / blocks;
    const int units = (columns + kGroupMultiple - 1) / kGroupMultiple;
    begin = units * group / kColumnGroups * kGroupMultiple;
    end = units * (group + 1) / kColumnGroups * kGroupMultiple;
  }
  __device__ int first_row(int tile) const { return (first_tile + kRowSets * tile) * tile_rows; }
};

// The order in which a warp needs the stages of its weights: the columns of a slab, then the tiles
// of a block, then the slabs, then the blocks.
struct Cursor {
  int block = 0, tile = 0, slab, slab_end, column;

  __device__ explicit Cursor(const Share& share) {
    enter(share, share.begin);
    if (share.begin == share.end) tile = share.tiles;
  }
  __device__ bool is_at_end(const Share& share) const { return tile >= share.tiles; }
  // Returns whether the next stage does not lie behind this one in memory.
  __device__ bool advance(const Share& share, int columns) {
    column += columns;
    if (column < slab_end) return false;
    column = slab;
    if (++tile < min(block + share.block_tiles, share.tiles)) return true;
    if (slab_end == share.end) {
      block = tile;
      enter(share, share.begin);
    } else {
      tile = block;
      enter(share, slab_end);
    }
    return true;
  }
  __device__ void enter(const Share& share, int at) {
    column = slab = at;
    slab_end = min(at + share.slab, share.end);
  }
};

}  // namespace ft::cuda::skinny
