// SPDX-License-Identifier: BSD-3-Clause
// How the operands of skinny_mma.cuh reach a warp's registers.
#pragma once

#include "cuda/skinny_plan.cuh"
#include "device/copy_async.cuh"
#include "device/int8.cuh"
#include "device/skinny.cuh"

namespace ft::cuda::skinny {

// A warp's private stages of weights: 16 rows of kRowBytes, pieces swapped so that the 8 lanes that
// are served at a time find theirs in different banks.
template <typename T, typename W, int kTokenTiles, bool kGated>
class Ring {
  using S = Sizes<W, kTokenTiles>;
  static constexpr int kCopyRows = 32 / S::kRowPieces;  // that one copy instruction fills

 public:
  uint32_t pieces[2][S::kLoads][4];  // of the current stage: of this lane's rows g and g + 8

  __device__ Ring(char* stages, const Problem<T, W, kGated>& problem, const Share& share)
      : stages_(stages), problem_(problem), share_(share), next_(share) {
    const int lane = threadIdx.x % 32, piece = lane % S::kRowPieces, g = lane / 4, t = lane % 4;
    copy_row_ = lane / S::kRowPieces;
    copy_column_ = piece * static_cast<int>(kPieceBytes / sizeof(W));
    copy_to_ = copy_row_ * S::kRowBytes + swapped(copy_row_, piece) * kPieceBytes;
#pragma unroll
    for (int i = 0; i < S::kLoads; ++i) {
      const int own = S::kIsInt8 ? 4 * i + t : S::kLoads * t + i;
      load_from_[i] = g * S::kRowBytes + swapped(g, own) * kPieceBytes;
    }
    const int64_t skipped = problem.weight_row(0, kTileRows / 2) - kTileRows / 2;
    to_gated_ = skipped * problem.weight_stride;
    aim();
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
        a[half] = device::even_weights(pieces[half][chunk][j]);
        a[half + 2] = device::odd_weights(pieces[half][chunk][j]);
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
      const bool in_row = next_.column + copy_column_ < problem_.columns;
#pragma unroll
      for (int i = 0; i < kTileRows; i += kCopyRows) {
        const W* from = from_ + i * static_cast<int64_t>(problem_.weight_stride);
        if (i >= kTileRows / 2) from += to_gated_;
        device::copy_async(stage + copy_to_ + i * S::kRowBytes, from,
                           in_row && problem_.result_row(0, i) < rows_left_);
      }
      from_ += S::kStageColumns;
      if (next_.advance(share_, S::kStageColumns)) aim();
    }
    device::commit_copies();
  }

  // Where the copies of the next tile begin.
  __device__ __forceinline__ void aim() {
    const int row = share_.first_row(next_.tile) + copy_row_;
    from_ = problem_.weight + row * static_cast<int64_t>(problem_.weight_stride) + next_.column +
            copy_column_;
    rows_left_ = problem_.rows - row;
  }

  char* stages_;
  const Problem<T, W, kGated>& problem_;
  const Share& share_;
  Cursor next_;
  int stage_ = 0;
  int copy_row_, copy_column_, copy_to_;  // of this lane in a stage
  int load_from_[S::kLoads];
  const W* from_;
  int64_t to_gated_;  // behind where the last eight rows of a tile would be without a gate
  int rows_left_;
};

// x of a column group, one slab at a time; the next one waits in the registers of its two warps.
template <typename T, typename W, int kTokenTiles, bool kGated>
class Slab {
  using S = Sizes<W, kTokenTiles>;

 public:
  __device__ Slab(char* memory, const Problem<T, W, kGated>& problem, const Share& share, int group,
                  int row_set)
      : problem_(problem), end_(min(share.end, problem.columns)), group_(group) {
    const int lane = threadIdx.x % 32, thread = row_set * 32 + lane;
    const int piece = thread & ((1 << shift()) - 1);
    token_ = thread >> shift();
    column_ = piece * kPieceOfX;
    from_ = problem.x + token_ * static_cast<int64_t>(problem.x_stride) + column_;
    to_ = memory + token_ * pitch() + piece * kPieceBytes;
    // Lanes of the B operand beyond the tokens read some token: their sums are dropped.
    const int token = kTokenTiles == 1 ? min(lane / 4, problem.tokens - 1) : lane / 4;
    operand_ = memory + token * pitch() + lane % 4 * 2 * kPieceBytes;
  }

  // Starts to read the slab at column `begin` of the matrix; the kernel in front has ended.
  __device__ void fetch(int begin) {
#pragma unroll
    for (int i = 0; i < S::kSlabLoads; ++i) {
      const int more = i * step();
      const bool valid = token_ + more < problem_.tokens && begin + column_ < end_;
      next_[i] = uint4{};
      if (valid) {
        next_[i] = *reinterpret_cast<const uint4*>(
            from_ + more * static_cast<int64_t>(problem_.x_stride) + begin);
      }
    }
  }

  // What was fetched becomes the current slab, when both warps are done with the one before.
  __device__ void turn() {
    barrier();
#pragma unroll
    for (int i = 0; i < S::kSlabLoads; ++i) {
      const int more = i * step();
      if (kTokenTiles > 1 || token_ + more < problem_.tokens) {
        *reinterpret_cast<uint4*>(to_ + more * pitch()) = operands_of(next_[i]);
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
    return kTokenTiles == 1 ? problem_.slab_shift : S::kFullShift;
  }
  __device__ __forceinline__ int pitch() const { return ((1 << shift()) + 1) * kPieceBytes; }
  // Eight columns of x as they multiply weights.
  __device__ __forceinline__ static uint4 operands_of(uint4 eight) {
    if constexpr (S::kIsInt8) {
      using Int8 = device::Int8<T>;
      const uint4 apart = device::interleave(eight);
      return {Int8::operand(apart.x), Int8::operand(apart.y), Int8::operand(apart.z),
              Int8::operand(apart.w)};
    } else {
      return eight;
    }
  }
  // From one of a thread's tokens to the next.
  __device__ __forceinline__ int step() const { return 32 * kRowSets >> shift(); }
  __device__ void barrier() const { device::named_barrier(1 + group_, 32 * kRowSets); }

  const Problem<T, W, kGated>& problem_;
  int end_, group_;
  int token_, column_;  // the first one that this thread copies
  const T* from_;
  char* to_;
  const char* operand_;
  uint4 next_[S::kSlabLoads];
};

}  // namespace ft::cuda::skinny
