// SPDX-License-Identifier: BSD-3-Clause
// A product of decoder_stack: this block's rows of the weight with x in shared memory, in the order
// of sums of skinny_linear_sm90.cuh.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/decoder_stack/weights.cuh"
#include "cuda/skinny_warp_sm90.cuh"
#include "device/arrival.cuh"

namespace ft::cuda::stack {

#ifdef FT_HOPPER

// How the warps share a product: each takes of every step of kStepColumns a slice of the columns,
// in products of 16, and of a tile's rows all, or every second 16.
template <int kSliceCount>
struct Split {
  static constexpr int kSides = kWarps / kSliceCount;
  static constexpr int kColumns = kStepColumns / kSliceCount, kProducts = kColumns / 16;
  static constexpr int kMostTiles = (kTileRows / 16 + kSides - 1) / kSides;  // of 16 rows
};
constexpr int kMostProducts = Split<kWideSlices>::kProducts;

// What a lane reads of every step, as offsets of the weight in a stage and addresses of x. Known
// before x is there.
struct LanePart {
  int slice, side, sides, box;
  uint32_t weight[kMostProducts], narrow_weight, x;

  __device__ LanePart(int slices, uint32_t x_of_token) {
    constexpr int kBoxColumns = kStepColumns / sm90::kStepBoxes;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int columns = slices == kSlices ? Split<kSlices>::kColumns : Split<kWideSlices>::kColumns;
    sides = slices == kSlices ? Split<kSlices>::kSides : Split<kWideSlices>::kSides;
    slice = slices == kSlices ? warp / Split<kSlices>::kSides : warp / Split<kWideSlices>::kSides;
    side = warp - slice * sides;
    box = slice * columns / kBoxColumns;
    const int piece = slice * columns % kBoxColumns / 8;
#pragma unroll
    for (int i = 0; i < kMostProducts; ++i) {
      weight[i] = sm90::swizzled(side * 16 + lane % 16, piece + lane / 16 + i * 2);
    }
    narrow_weight = sm90::swizzled(lane % 8, piece + lane / 8 % 2);
    x = x_of_token + (slice * columns + lane / 8 % 2 * 8) * 2;
  }
  // Of a tile of so many rows.
  __device__ int num_tiles(int rows) const {
    const int left = (rows + 15) / 16 - side;
    return max(0, sides == Split<kSlices>::kSides
                      ? (left + Split<kSlices>::kSides - 1) / Split<kSlices>::kSides
                      : (left + Split<kWideSlices>::kSides - 1) / Split<kWideSlices>::kSides);
  }
};

// Tiles of 16 rows of which a warp multiplies so many, or one of 8 alone.
template <typename S_, int kCount_, bool kIsNarrow_>
struct Tiling {
  using S = S_;
  static constexpr int kCount = kCount_;
  static constexpr bool kIsNarrow = kIsNarrow_;
  static constexpr int kBatch = S::kProducts > 1 ? 2 : 4;  // steps

  __device__ static void load(uint32_t (&to)[4], const LanePart& part, uint32_t weight, int product,
                              int tile) {
    if constexpr (kIsNarrow) {
      uint32_t half[2];
      device::load_matrices(half, weight + part.narrow_weight);
      to[0] = half[0], to[1] = 0, to[2] = half[1], to[3] = 0;
    } else {
      constexpr int kTileBytes = S::kSides * 16 * kBoxRowBytes;
      device::load_matrices(to, weight + part.weight[product] + tile * kTileBytes);
    }
  }
};

// `kCount` steps on, whose operands are loaded before the first is multiplied.
template <typename T, typename Tiles, int kCount>
__device__ __forceinline__ void multiply_steps(float (&acc)[Tiles::kCount][4], const LanePart& part,
                                               uint32_t weight, int step_bytes, uint32_t x) {
  constexpr int kProducts = Tiles::S::kProducts, kCountAll = kCount * kProducts;
  uint32_t a[kCountAll][Tiles::kCount][4], b[kCountAll][2];
#pragma unroll
  for (int i = 0; i < kCountAll; ++i) {
    const int step = i / kProducts, product = i % kProducts;
    device::load_matrices(b[i], x + (step * kStepColumns + product * 16) * 2);
#pragma unroll
    for (int tile = 0; tile < Tiles::kCount; ++tile) {
      Tiles::load(a[i][tile], part, weight + step * step_bytes, product, tile);
    }
  }
#pragma unroll
  for (int i = 0; i < kCountAll; ++i) {
#pragma unroll
    for (int tile = 0; tile < Tiles::kCount; ++tile) {
      device::multiply(acc[tile], a[i][tile], b[i][0], b[i][1], T{});
    }
  }
}

// `steps` steps on, with as many operands at a time as are on their way beside each other.
template <typename T, typename Tiles>
__device__ __forceinline__ void multiply_stage(float (&acc)[Tiles::kCount][4], const LanePart& part,
                                               uint32_t weight, int step_bytes, uint32_t& x,
                                               int steps) {
  const auto multiply = [&](auto count) {
    constexpr int kCount = decltype(count)::value;
    multiply_steps<T, Tiles, kCount>(acc, part, weight, step_bytes, x);
    weight += kCount * step_bytes;
    x += kCount * kStepColumns * 2;
  };
#pragma unroll 1
  for (; steps >= Tiles::kBatch; steps -= Tiles::kBatch) {
    multiply(std::integral_constant<int, Tiles::kBatch>{});
  }
  if constexpr (Tiles::kBatch > 2) {
    if (steps & 2) multiply(std::integral_constant<int, 2>{});
  }
  if (steps & 1) multiply(std::integral_constant<int, 1>{});
}

// All columns of a tile of `rows` rows, of which the first stage is there; the warps leave their
// sums in shared memory.
template <typename Tiles, typename T, int kHeadDim>
__device__ __forceinline__ void multiply_tile(const Shared<T, kHeadDim>& shared, const Load& load,
                                              const LanePart& part, int rows, int tokens,
                                              float* sums, device::RingPosition& at) {
  constexpr int kBoxes = sm90::kStepBoxes;
  const int lane = threadIdx.x % 32, box_bytes = rows * kBoxRowBytes;
  const uint32_t ring = device::shared_address(shared.stage(0)) + part.box * box_bytes;
  uint32_t x = part.x;
  float acc[Tiles::kCount > 0 ? Tiles::kCount : 1][4] = {};
  int left = load.strips;
#pragma unroll 1
  while (true) {
    if constexpr (Tiles::kCount > 0) {
      multiply_stage<T, Tiles>(acc, part, ring + at.stage * kStageBytes, kBoxes * box_bytes, x,
                               min(load.boxes, left) / kBoxes);
    }
    __syncwarp();
    if (lane == 0) device::barrier_arrive(shared.empty(at.stage));
    at.advance(shared.layout.stages);
    left -= load.boxes;
    if (left <= 0) break;
    device::barrier_wait(shared.full(at.stage), at.phase);
  }
#pragma unroll
  for (int tile = 0; tile < Tiles::kCount; ++tile) {
    const int row = (tile * Tiles::S::kSides + part.side) * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int token = lane % 4 * 2 + j;
      if (token >= tokens) continue;
      float* const sum = sums + (part.slice * tokens + token) * shared.layout.sum_stride + row;
      sum[0] = acc[tile][j];
      if (!Tiles::kIsNarrow) sum[8] = acc[tile][j + 2];
    }
  }
}

// The same for as many tiles of 16 rows as the warp has.
template <typename S, int kCount = S::kMostTiles, typename T, int kHeadDim>
__device__ __forceinline__ void multiply_rows(const Shared<T, kHeadDim>& shared, const Load& load,
                                              const LanePart& part, int num_tiles, int rows,
                                              int tokens, float* sums, device::RingPosition& at) {
  if constexpr (kCount > 0) {
    if (num_tiles < kCount) {
      return multiply_rows<S, kCount - 1>(shared, load, part, num_tiles, rows, tokens, sums, at);
    }
  }
  multiply_tile<Tiling<S, kCount, false>>(shared, load, part, rows, tokens, sums, at);
}

// Where the sums go: [tokens, columns], of which this block has some.
template <typename T>
struct Target {
  T* out;
  int columns;
  const T* bias;  // of every row of the weight, or null
  int activation;

  __device__ float bias_of(int row) const { return device::to_float(bias[row]); }
  __device__ float activated(float x) const {
    return activation == Step::kNone ? x : activate(static_cast<Activation>(activation), x);
  }
  __device__ void put(int token, int column, float value) const {
    device::store_relaxed(out + token * columns + column, device::from_float<T>(value));
  }
};

constexpr int kTokenThreads = kConsumers / kMaxTokens;  // that finish a token's columns of a tile
static_assert(kTokenThreads >= kTileRows);

// A product as a thread sees it. All that can be known before x is there is: of the first tile the
// rows, and the column that the thread finishes with its biases.
template <typename T, int kHeadDim>
class Product {
 public:
  __device__ Product(const Shared<T, kHeadDim>& shared, const Step& step, const Target<T>& target,
                     int tokens)
      : shared_(shared),
        load_(step.load),
        target_(target),
        slices_(step.slices),
        tokens_(tokens),
        parts_shift_(step.load.parts - 1),
        tiles_(tiles_of(step.load.share)),
        part_(step.slices, device::shared_address(shared.x(
                               step, min(static_cast<int>(threadIdx.x % 8), tokens - 1)))) {
    if (tiles_.count > 0) enter(tiles_.first_row(0), tiles_.first_row(1));
  }

  __device__ bool has_rows() const { return tiles_.count > 0; }

  // Waits for the first weights.
  __device__ __forceinline__ void begin(const device::RingPosition& at) const {
    if (has_rows()) device::barrier_wait(shared_.full(at.stage), at.phase);
  }

  __device__ __forceinline__ void run(device::RingPosition& at) {
#pragma unroll 1
    for (int tile = 0; tile < tiles_.count; ++tile) {
      float* const sums = shared_.sums(tile % 2, tokens_);
      if (tile > 0) device::barrier_wait(shared_.full(at.stage), at.phase);
      if (slices_ == kSlices && rows_ == kGroupRows) {
        multiply_tile<Tiling<Split<kSlices>, 1, true>>(shared_, load_, part_, rows_, tokens_, sums,
                                                       at);
      } else if (slices_ == kSlices) {
        multiply_rows<Split<kSlices>>(shared_, load_, part_, num_tiles_, rows_, tokens_, sums, at);
      } else {
        multiply_rows<Split<kWideSlices>>(shared_, load_, part_, num_tiles_, rows_, tokens_, sums,
                                          at);
      }
      device::named_barrier(1, kConsumers);
      if (token_ < tokens_ && column_ < columns_) finish(sums);
      if (tile + 1 < tiles_.count) enter(first_ + rows_, tiles_.first_row(tile + 2));
    }
  }

 private:
  __device__ __forceinline__ void enter(int first, int end) {
    first_ = first;
    rows_ = end - first;
    num_tiles_ = part_.num_tiles(rows_);
    columns_ = rows_ >> parts_shift_;
    if (target_.bias == nullptr || column_ >= columns_) return;
    bias_ = target_.bias_of(of_target());
    if (parts_shift_ > 0) second_bias_ = target_.bias_of(target_.columns + of_target());
  }
  __device__ int of_target() const { return (first_ >> parts_shift_) + column_; }

  // Adds up what the slices have left of an element of a tile.
  __device__ __forceinline__ void finish(const float* sums) const {
    const int stride = shared_.layout.sum_stride, next = tokens_ * stride;
    const auto sum_of = [&](int row) {
      const float* const from = sums + token_ * stride + row;
      float parts[kSlices];  // what is no slice adds nothing
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) {
        parts[slice] = slice < slices_ ? from[slice * next] : 0.0f;
      }
      float sum = 0.0f;
#pragma unroll
      for (int slice = 0; slice < kSlices; slice += 2) sum += parts[slice] + parts[slice + 1];
      return sum;
    };
    float value = target_.activated(sum_of(column_) + bias_);
    if (parts_shift_ > 0) value *= sum_of(columns_ + column_) + second_bias_;
    target_.put(token_, of_target(), value);
  }

  const Shared<T, kHeadDim>& shared_;
  const Load& load_;
  const Target<T> target_;
  const int slices_, tokens_, parts_shift_;
  const int token_ = threadIdx.x / kTokenThreads, column_ = threadIdx.x % kTokenThreads;
  const sm90::Tiles tiles_;
  const LanePart part_;
  int first_ = 0, rows_ = 0, num_tiles_ = 0, columns_ = 0;
  float bias_ = 0.0f, second_bias_ = 0.0f;
};

#endif  // FT_HOPPER

}  // namespace ft::cuda::stack
