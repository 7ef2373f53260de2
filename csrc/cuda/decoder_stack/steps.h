// SPDX-License-Identifier: BSD-3-Clause
// What decoder_stack computes, as a table in device memory that all of its blocks follow.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/skinny_ring_sm90.cuh"

namespace ft::cuda::stack {

using sm90::kBoxRowBytes, sm90::kGroupBytes, sm90::kGroupRows;

// One for every slice: what all warps do of a step that has little to multiply takes its time from
// the others.
constexpr int kWarps = 8, kConsumers = kWarps * 32;
constexpr int kThreads = kConsumers + 32;  // and a warp that brings the weights
constexpr int kMaxTokens = 4;              // with more the layers one by one are faster
constexpr int kSlices = 8;                 // of the columns of a weight, as in skinny_linear
constexpr int kWideSlices = 4;             // where skinny_wide_sm90 has it
constexpr int kTileRows = 32;              // at most
constexpr int kStepColumns = kBoxRowBytes / 2 * sm90::kStepBoxes;
constexpr int kStageBytes = 16 * 1024;
constexpr int kMaxStages = 13;
constexpr int kMaxRowPacks = 2;                      // of a norm's row, for every thread
constexpr int kMaxRowWarps = kMaxRowPacks * kWarps;  // of a norm by itself, with one pack
constexpr int kMaxHidden = kMaxRowWarps * 32 * 8;

enum class Kind : int { kProduct, kSelfAttention, kCrossAttention };

// The rows of a product's weight, as they are dealt out and copied.
struct alignas(16) Load {
  sm90::Share share;     // of no block in attention
  int fewer_groups = 0;  // of a tile
  int strips = 0;        // of the weight, of 64 columns
  int boxes = 0;         // strips that a stage of the ring holds
  int parts = 1;         // two: the first half of the rows gates the second one
};

// Of every product, for tiles of `fewer_groups` groups and of one more.
struct Maps {
  CUtensorMap weight[2];
};

// Values lie in buffers [kMaxTokens, columns], at `in` and `out` among them.
struct alignas(16) Step {
  static constexpr int kNone = -1;

  Load load;
  Kind kind = Kind::kProduct;
  int in = kNone, in_columns = 0;
  unsigned in_packs_inverse = 0;     // 2^32 / packs of a row, rounded up: a division takes long
  int out = kNone, out_columns = 0;  // none: the result of the stack
  int activation = kNone;
  int slices = kSlices;
  int layer = 0;
  int relative_reach = 0;
  float eps = 0.0f;
  // Of the type of the values. A product with a norm is of norm(residual += in).
  const void *bias = nullptr, *norm_weight = nullptr, *norm_bias = nullptr;
  const float* relative_bias = nullptr;
};

constexpr int kHeaders = 4;  // steps that shared memory holds, of which two come ahead
constexpr int kProgressBytes = (2 * kWarps + 2) * 4;

// What one launch leaves for the next: its values must be cleared before they are written again, so
// two sets of buffers take turns.
struct State {
  unsigned counter;  // of blocks that have ended
  int turn;          // whose buffers are the next launch's
  int tokens[2];     // that lie in them
};

}  // namespace ft::cuda::stack
