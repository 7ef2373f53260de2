// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper: out^T = weight x^T by warpgroup products, 64 rows of the weight by up to
// 64 tokens. One block per multiprocessor. A producer thread fills a ring with tiles of 64 weight
// rows by 64 columns and the matching columns of x, the weights' first tiles while the kernel
// before still runs; a warpgroup multiplies. The (row tile, column tile) units are dealt out evenly
// whatever the shape, so a row tile may be shared by a few blocks: each leaves its sums in a
// scratch, and the last one adds them in block order. Which columns a block sums depends on the
// weight's shape alone, so a token's result does not depend on the other tokens.
#include "cuda/launch.h"
#include "cuda/skinny_linear.h"
#include "cuda/tensor_map.h"
#include "device/hopper.cuh"
#include "device/pdl.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

constexpr int kRows = 64;     // of a tile: what a warpgroup product takes
constexpr int kColumns = 64;  // of a tile: 128 bytes, what one swizzle spans
constexpr int kRowBytes = kColumns * 2;
constexpr int kConsumers = 128;
constexpr int kThreads = kConsumers + 32;
constexpr int kAlignment = 1024;  // of a swizzled tile
// Two blocks fit on a multiprocessor, so that the next kernel's ring fills while this one ends.
constexpr int kRingBytes = 104 * 1024;
constexpr int kMaxBlocks = 160;
constexpr int kMaxRowTiles = 8192;

// Unfinished sums: [block, its first or last tile, register, thread]. One kernel at a time uses
// them.
__device__ float partial_sums[kMaxBlocks * 2 * (kMaxSkinnyTokens / 2) * kConsumers];
// Column tiles that are done, per row tile; zero between kernels.
__device__ int finished_columns[kMaxRowTiles];

template <int kTokens>
struct Ring {
  static constexpr int kWeightBytes = kRows * kRowBytes;
  static constexpr int kStageBytes = kWeightBytes + kTokens * kRowBytes;
  static constexpr int kStages = kRingBytes / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + kAlignment + 2 * kStages * 8;

  char* tiles;
  uint64_t* full;
  uint64_t* empty;

  __device__ explicit Ring(char* shared) {
    tiles = shared + (kAlignment - device::shared_address(shared) % kAlignment) % kAlignment;
    full = reinterpret_cast<uint64_t*>(tiles + kStages * kStageBytes);
    empty = full + kStages;
  }
  __device__ char* weight(int stage) const { return tiles + stage * kStageBytes; }
  __device__ char* x(int stage) const { return weight(stage) + kWeightBytes; }
};

// The units [begin, end) of a block; unit = row tile * column_tiles + column tile.
struct Share {
  int column_tiles, units, blocks;

  __device__ int begin(int block) const {
    return static_cast<int>(static_cast<int64_t>(block) * units / blocks);
  }
  __device__ int owner(int unit) const {
    return static_cast<int>((static_cast<int64_t>(unit + 1) * blocks - 1) / units);
  }
};

#ifdef FT_HOPPER

template <int kTokens>
__device__ void produce(const Ring<kTokens>& ring, const CUtensorMap& weight, const CUtensorMap& x,
                        const Share& share, int begin, int end) {
  using R = Ring<kTokens>;
  const auto load_weight = [&](int unit, int stage) {
    device::barrier_expect(&ring.full[stage], R::kStageBytes);
    device::copy_box(ring.weight(stage), weight, unit / share.column_tiles * kRows,
                     unit % share.column_tiles * kColumns, &ring.full[stage], device::kEvictFirst);
  };
  const auto load_x = [&](int unit, int stage) {
    device::copy_box(ring.x(stage), x, 0, unit % share.column_tiles * kColumns, &ring.full[stage],
                     device::kEvictLast);
  };
  const int ahead = min(R::kStages, end - begin);
  for (int i = 0; i < ahead; ++i) load_weight(begin + i, i);
  device::wait_for_predecessor();
  for (int i = 0; i < ahead; ++i) load_x(begin + i, i);
  for (int i = ahead; i < end - begin; ++i) {
    const int stage = i % R::kStages;
    device::barrier_wait(&ring.empty[stage], (i / R::kStages - 1) & 1);
    load_weight(begin + i, stage);
    load_x(begin + i, stage);
  }
}

// Adds up what all blocks that share `row_tile` have computed. Returns false in all but the last of
// them.
template <int kCount>
__device__ bool join(float (&acc)[kCount], const Share& share, int row_tile, int columns) {
  __shared__ bool is_last;
  const int block = blockIdx.x, thread = threadIdx.x;
  const auto partial = [&](int of) {
    const int slot = of * 2 + (share.begin(of) / share.column_tiles != row_tile);
    return partial_sums + static_cast<int64_t>(slot) * (kMaxSkinnyTokens / 2) * kConsumers + thread;
  };
  float* const mine = partial(block);
#pragma unroll
  for (int i = 0; i < kCount; ++i) __stcg(mine + i * kConsumers, acc[i]);
  __threadfence();
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
  if (thread == 0) {
    is_last = atomicAdd(&finished_columns[row_tile], columns) + columns == share.column_tiles;
    if (is_last) finished_columns[row_tile] = 0;
    __threadfence();
  }
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
  if (!is_last) return false;
  const int first = share.owner(row_tile * share.column_tiles);
  const int last = share.owner((row_tile + 1) * share.column_tiles - 1);
#pragma unroll
  for (int i = 0; i < kCount; ++i) acc[i] = __ldcg(partial(first) + i * kConsumers);
  for (int of = first + 1; of <= last; ++of) {
    const float* const theirs = partial(of);
#pragma unroll
    for (int i = 0; i < kCount; ++i) acc[i] += __ldcg(theirs + i * kConsumers);
  }
  return true;
}

template <typename T, typename Out, int kCount>
__device__ void store(const float (&acc)[kCount], Out* out, const T* bias, int row_tile, int tokens,
                      int rows) {
  const int lane = threadIdx.x % 32;
  const int row = row_tile * kRows + threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = row + half * 8;
    if (at >= rows) return;
    const float add = bias == nullptr ? 0.0f : device::to_float(bias[at]);
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const int token = i / 2 * 8 + lane % 4 * 2 + i % 2;
      const float value = acc[i / 2 * 4 + half * 2 + i % 2] + add;
      if (token < tokens)
        out[static_cast<int64_t>(token) * rows + at] = device::from_float<Out>(value);
    }
  }
}

template <typename T, typename Out, int kTokens>
__device__ void consume(const Ring<kTokens>& ring, const Share& share, int begin, int end, Out* out,
                        const T* bias, int tokens, int rows) {
  using R = Ring<kTokens>;
  int stage = 0, phase = 0;
  for (int unit = begin; unit < end;) {
    const int row_tile = unit / share.column_tiles;
    const int columns = min(end, (row_tile + 1) * share.column_tiles) - unit;
    float acc[kTokens / 2] = {};
    for (int i = 0; i < columns; ++i) {
      device::barrier_wait(&ring.full[stage], phase);
      const uint64_t a = device::tile_descriptor(ring.weight(stage));
      const uint64_t b = device::tile_descriptor(ring.x(stage));
      device::product_fence();
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) device::product(acc, a + 2 * k, b + 2 * k, T{});
      device::product_commit();
      device::product_wait<0>();
      if (threadIdx.x % 32 == 0) device::barrier_arrive(&ring.empty[stage]);
      if (++stage == R::kStages) stage = 0, phase ^= 1;
    }
    unit += columns;
    if (columns == share.column_tiles || join(acc, share, row_tile, columns)) {
      store(acc, out, bias, row_tile, tokens, rows);
    }
  }
}

#endif  // FT_HOPPER

template <typename T, typename Out, int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    skinny_linear_sm90_kernel(const __grid_constant__ CUtensorMap weight,
                              const __grid_constant__ CUtensorMap x, Out* out, const T* bias,
                              int tokens, int rows, Share share) {
#ifdef FT_HOPPER
  device::launch_dependents();
  extern __shared__ char shared[];
  const Ring<kTokens> ring(shared);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Ring<kTokens>::kStages; ++stage) {
      device::barrier_init(&ring.full[stage], 1);
      device::barrier_init(&ring.empty[stage], kConsumers / 32);
    }
    device::barrier_init_fence();
  }
  __syncthreads();
  const int begin = share.begin(blockIdx.x), end = share.begin(blockIdx.x + 1);
  // The same for the whole warp, and the compiler shall know it.
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  if (warp < kConsumers / 32) {
    device::wait_for_predecessor();
    consume<T>(ring, share, begin, end, out, bias, tokens, rows);
  } else if (threadIdx.x == kConsumers) {
    produce(ring, weight, x, share, begin, end);
  }
#endif
}

template <typename T, typename Out, int kTokens>
void run(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
         const Tensor* bias, int64_t stream) {
  const int rows = static_cast<int>(weight.shape[0]);
  const int row_tiles = (rows + kRows - 1) / kRows;
  Share share{};
  share.column_tiles = static_cast<int>((weight.shape[1] + kColumns - 1) / kColumns);
  share.units = row_tiles * share.column_tiles;
  share.blocks = std::min({share.units, num_multiprocessors(), kMaxBlocks});
  check_that(op, "weight", row_tiles <= kMaxRowTiles, "has more than 524288 rows");
  constexpr auto kernel = skinny_linear_sm90_kernel<T, Out, kTokens>;
  constexpr int kSharedBytes = Ring<kTokens>::kSharedBytes;
  static const bool allowed = (allow_shared(op, kernel, kSharedBytes), true);
  static_cast<void>(allowed);
  launch(op, kernel, share.blocks, kThreads, kSharedBytes, stream,
         tile_map(op, weight, kRows, kColumns), tile_map(op, x, kTokens, kColumns), out.as<Out>(),
         bias == nullptr ? nullptr : bias->as<T>(), x.shape[0], rows, share);
}

}  // namespace

void skinny_linear_sm90(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
                        const Tensor* bias, int64_t stream) {
  dispatch_half(x, [&](auto type) {
    using T = decltype(type);
    const auto with_out = [&](auto out_type) {
      using Out = decltype(out_type);
      const int64_t tokens = x.shape[0];
      if (tokens <= 8) return run<T, Out, 8>(op, out, x, weight, bias, stream);
      if (tokens <= 16) return run<T, Out, 16>(op, out, x, weight, bias, stream);
      if (tokens <= 32) return run<T, Out, 32>(op, out, x, weight, bias, stream);
      run<T, Out, 64>(op, out, x, weight, bias, stream);
    };
    if (out.dtype == DType::kFloat32) return with_out(float{});
    with_out(T{});
  });
}

}  // namespace ft::cuda
