// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper where every block has many rows of the weight, in the type of x, and many
// columns. More than a few tokens are multiplied by warpgroups, 64 at a time: out = x weight^T with
// all rows of a tile. x comes from registers, since shared memory holds no more rows of it than
// there are tokens. Of two warpgroups one has the even boxes of columns and the other the odd ones,
// each in two slices of a box. A few tokens are multiplied as in skinny_linear_sm90.cuh in the same
// slices; the sums of both have the same bits.
#pragma once

#include "cuda/skinny_linear_sm90.cuh"
#include "device/wgmma.cuh"

namespace ft::cuda::sm90 {

constexpr int kWarpgroupThreads = 128, kWorkers = kStepBoxes * kWarpgroupThreads;
constexpr int kWideThreads = kWorkers + kWarpgroupThreads;  // of whose last ones two load
constexpr int kWorkerRegisters = 232, kLoaderRegisters = 40;
constexpr int kBoxProducts = kXBoxColumns / 16;  // of 16 columns
constexpr int kBoxSlices = 2, kWideSlices = kStepBoxes * kBoxSlices;

// kRows_: of the weight in a product, of which a tile has as many or fewer. kSteps_: in a unit,
// which a stage of the ring holds; a step has a box for each warpgroup.
template <typename T, int kRows_, int kSteps_>
struct WideShape {
  using W = T;
  static constexpr int kRows = kRows_, kSteps = kSteps_;
  static constexpr int kBlocks = kRows / 8;  // of rows, of which a lane has two
  static constexpr int kSize = kRows / 2;    // sums of a lane
  static constexpr int kBoxes = kSteps * kStepBoxes, kXBoxes = kBoxes;
  static constexpr int kBoxColumns = kXBoxColumns, kUnitColumns = kBoxes * kBoxColumns;
  // What warpgroups leave each other. What products read behind the ring's last box is less.
  static constexpr int kSumBytes = kBlocks * kWorkers * static_cast<int>(sizeof(float2));
  static constexpr int kSharedBytes = shared_bytes(kSumBytes);
};

#ifdef FT_WGMMA

// The part of a warpgroup in all tiles.
template <typename T, typename S>
class WideWorker {
 public:
  __device__ WideWorker(const Ring<S>& ring, int tokens)
      : ring_(ring),
        tokens_(tokens),
        warpgroup_(threadIdx.x / kWarpgroupThreads),
        first_token_(threadIdx.x % kWarpgroupThreads / 32 * 16) {}

  // The sums of a tile of `rows` rows.
  __device__ void multiply(int units, int rows) {
#pragma unroll
    for (int i = 0; i < S::kSize; ++i) sums_[i] = more_sums_[i] = 0.0f;
    wait_for_x(x_[0]);
    for (int left = units; left > 0; left -= 2) {
      multiply_stage(x_[0], x_[1], rows, left > 1);
      if (left > 1) multiply_stage(x_[1], x_[0], rows, left > 2);
    }
#pragma unroll
    for (int i = 0; i < S::kSize; ++i) sums_[i] += more_sums_[i];
  }

  // The bias of a tile's rows [first, first + rows), of which a lane has two of every eight, of all
  // parts: it is there before the sums are.
  template <typename Out, int kParts>
  __device__ void load_bias(const Result<T, Out, kParts>& result, int first, int rows) {
    constexpr int kCount = S::kBlocks / kParts;
    const int begin = first / kParts + first_row(),
              end = min((first + rows) / kParts, result.columns);
#pragma unroll
    for (int i = 0; i < S::kBlocks; ++i) {
      const int before = i / kCount * result.columns, row = before + begin + i % kCount * 8;
      bias_[i] = {result.bias_of(row, before + end), result.bias_of(row + 1, before + end)};
    }
  }

  // Stores the tile, whose rows are [first, first + rows) of all parts: of every warp's 16 tokens
  // each warpgroup finishes eight, whose sums it gets from the other one.
  template <typename Result>
  __device__ void store(const Result& result, int first, int rows, bool is_last) const {
    float2* const sums = reinterpret_cast<float2*>(ring_.sums);
    if (first_token_ < tokens_) leave(sums + threadIdx.x);
    device::named_barrier(1, kWorkers);
    if (first_token_ < tokens_) {
      float2* const own = sums + (threadIdx.x ^ kWarpgroupThreads);
      result.with_activation(
          [&](const auto& activate) { finish(result, first, rows, own, activate); });
    }
    if (!is_last) device::named_barrier(1, kWorkers);  // the next tile's go there
  }

 private:
  using X = uint32_t[S::kSteps * kBoxProducts][4];  // of a unit: 16 tokens of a warp

  // A lane's sums of two rows for token `which` of its two, which are eight apart.
  __device__ float2 pair(int block, int which) const {
    const float* sums = sums_ + 4 * block;
    return which > 0 ? float2{sums[2], sums[3]} : float2{sums[0], sums[1]};
  }
  __device__ void leave(float2* to) const {
#pragma unroll
    for (int i = 0; i < S::kBlocks; ++i) to[i * kWorkers] = pair(i, 1 - warpgroup_);
  }
  __device__ float bias(int block, int row) const {
    return device::to_float(bias_[block].lanes[row]);
  }
  // The token that the lane finishes, and its first two rows of a tile.
  __device__ int token() const { return first_token_ + threadIdx.x % 32 / 4 + 8 * warpgroup_; }
  __device__ int first_row() const { return threadIdx.x % 4 * 2; }

  // The lane's pair of every eight rows.
  __device__ void add(float2 (&to)[S::kBlocks], const float2* others) const {
#pragma unroll
    for (int i = 0; i < S::kBlocks; ++i) {
      const float2 mine = pair(i, warpgroup_), other = others[i * kWorkers];
      to[i] = {mine.x + other.x, mine.y + other.y};
    }
  }

  template <typename Out, typename Activate>
  __device__ void finish(const Result<T, Out, 1>& result, int first, int rows, float2* own,
                         const Activate& activate) const {
    if (token() >= tokens_) return;
    const int begin = first + first_row(), end = min(first + rows, result.columns);
    float2 sums[S::kBlocks];
    add(sums, own);
    Out* const to = result.out + int64_t{token()} * result.columns + begin;
#pragma unroll
    for (int i = 0; i < S::kBlocks; ++i) {
      const int column = begin + i * 8;
      const float x = activate(sums[i].x + bias(i, 0), column);
      const float y = activate(sums[i].y + bias(i, 1), column + 1);
      if (column < end) store_pair(to + i * 8, x, y);
    }
  }

  // What a lane's sums gate, another one may have, of the four with the same token.
  template <typename Out, typename Activate>
  __device__ void finish(const Result<T, Out, 2>& result, int first, int rows, float2* own,
                         const Activate& activate) const {
    constexpr int kGated = S::kBlocks / 2;
    float2 sums[S::kBlocks];
    const int begin = first / 2 + first_row(), end = min((first + rows) / 2, result.columns);
    add(sums, own);
#pragma unroll
    for (int i = 0; i < S::kBlocks; ++i) own[i * kWorkers] = sums[i];
    __syncwarp();
    if (token() >= tokens_) return;
    const int first_gated = first_row() + rows / 2;
    const float2* const gated =
        own - threadIdx.x % 4 + first_gated / 8 * kWorkers + first_gated % 8 / 2;
    Out* const to = result.out + int64_t{token()} * result.columns + begin;
#pragma unroll
    for (int i = 0; i < kGated; ++i) {
      const int column = begin + i * 8;
      const float2 factor = gated[i * kWorkers];
      const float x = activate(sums[i].x + bias(i, 0), column) * (factor.x + bias(i + kGated, 0));
      const float y =
          activate(sums[i].y + bias(i, 1), column + 1) * (factor.y + bias(i + kGated, 1));
      if (column < end) store_pair(to + i * 8, x, y);
    }
  }
  template <typename Out>
  __device__ static void store_pair(Out* to, float first, float second) {
    device::store_pack<Out, 2>(to,
                               {device::from_float<Out>(first), device::from_float<Out>(second)});
  }

  __device__ __forceinline__ void wait_for_x(X& x) {
    device::barrier_wait(&ring_.full[at_.stage], at_.phase);
    if (first_token_ < tokens_) load_x(x, ring_.x(at_.stage));
  }

  // While the products of a stage run, the x of the next one comes.
  __device__ __forceinline__ void multiply_stage(X& x, X& next, int rows, bool has_next) {
    const int stage = at_.stage;
    device::pin(x);
    device::pin(sums_);
    device::pin(more_sums_);
    device::products_fence();
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      const int box = step * kStepBoxes + warpgroup_;
      const char* const weight = ring_.weight(stage) + box * rows * kBoxRowBytes;
      const uint64_t strip = device::strip_descriptor(weight, kGroupBytes, 0);
#pragma unroll
      for (int i = 0; i < kBoxProducts; ++i) {
        device::multiply_strips<T>(i < kBoxProducts / kBoxSlices ? sums_ : more_sums_,
                                   x[step * kBoxProducts + i], strip + i * 2);
      }
    }
    device::products_commit();
    at_.advance(ring_.stages);
    if (has_next) wait_for_x(next);
    device::products_wait<0>();
    device::pin(sums_);
    device::pin(more_sums_);
    if (threadIdx.x % 32 == 0) device::barrier_arrive(&ring_.empty[stage]);
  }

  // 16 tokens of the warpgroup's boxes; what stands for tokens that are not there is of no use.
  __device__ __forceinline__ void load_x(X& to, const char* x) {
    const int lane = threadIdx.x % 32, token = min(first_token_ + lane % 16, tokens_ - 1);
    const uint32_t base = device::shared_address(x);
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      const int line = (step * kStepBoxes + warpgroup_) * tokens_ + token;
#pragma unroll
      for (int i = 0; i < kBoxProducts; ++i) {
        device::load_matrices(to[step * kBoxProducts + i],
                              base + swizzled_line(line, i * 2 + lane / 16));
      }
    }
  }

  const Ring<S>& ring_;
  int tokens_, warpgroup_, first_token_;
  device::RingPosition at_;
  // Of the slices of the warpgroup's boxes, as device::multiply_strips has them.
  float sums_[S::kSize], more_sums_[S::kSize];
  device::Pack<T, 2> bias_[S::kBlocks];
  X x_[2] = {};
};

#endif  // FT_WGMMA

template <typename T, typename S, typename Out, int kParts>
__global__ void __launch_bounds__(kWideThreads, 1)
    skinny_wide_sm90_kernel(const __grid_constant__ Sources sources,
                            const Result<T, Out, kParts> result, Share share) {
#ifdef FT_WGMMA
  extern __shared__ char shared[];
  const Ring<S> ring(shared, share, result.tokens);
  if (threadIdx.x == 0) ring.init(kWorkers / 32);
  __syncthreads();
  const Tiles tiles(share, blockIdx.x);
  if (threadIdx.x < kWorkers) {
    device::raise_registers<kWorkerRegisters>();
    device::wait_for_predecessor();
    WideWorker<T, S> worker(ring, result.tokens);
    for (int i = 0; i < tiles.count; ++i) {
      const int first = tiles.first_row(i), rows = tiles.num_rows(i);
      worker.load_bias(result, first, rows);
      worker.multiply(sources.units(), rows);
      worker.store(result, first, rows, i + 1 == tiles.count);
    }
  } else {
    device::lower_registers<kLoaderRegisters>();
    if (threadIdx.x == kWorkers) load_weights<kParts>(ring, sources, tiles, result.tokens);
    if (threadIdx.x == kWorkers + 32) load_x(ring, sources, tiles.count);
  }
#endif
}

template <typename T, typename S, typename Out, int kParts>
void run_wide_shape(const SkinnyProduct& product, const Share& share) {
  launch_shape<T, S, Out, kParts>(product, share, skinny_wide_sm90_kernel<T, S, Out, kParts>,
                                  kWideThreads);
}

// Warpgroups take as long for a few tokens as for 64. Of up to 16 tokens tiles are small, so that
// many are on their way, and units have many columns, since memory likes long rows; more tokens
// take so much of the ring that units are narrow, and x is read once for a tile.
template <typename T, typename Out, int kParts>
void run_wide(const SkinnyProduct& product) {
  const int64_t tokens = product.x.shape[0];
  Share share(product.weight.shape[0]);
  if (tokens <= 8) {
    return run_shape<T, Shape<T, 8, 12, 2, kWideSlices>, Out, kParts>(product, share);
  }
  share.divide(tokens <= 16 ? 48 : 96);
  const int rows = share.max_tile_groups() * kGroupRows;
  if (tokens <= 16) {
    if (rows <= 32) return run_wide_shape<T, WideShape<T, 32, 2>, Out, kParts>(product, share);
    return run_wide_shape<T, WideShape<T, 48, 2>, Out, kParts>(product, share);
  }
  if (rows <= 32) return run_wide_shape<T, WideShape<T, 32, 1>, Out, kParts>(product, share);
  if (rows <= 64) return run_wide_shape<T, WideShape<T, 64, 1>, Out, kParts>(product, share);
  run_wide_shape<T, WideShape<T, 96, 1>, Out, kParts>(product, share);
}

}  // namespace ft::cuda::sm90
