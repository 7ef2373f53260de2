// SPDX-License-Identifier: BSD-3-Clause
// skinny_linear on Hopper: out^T = weight x^T, one block per multiprocessor for its share of the
// rows. Two threads fill a ring with units of 32 rows by 128 columns and the columns of x, the
// first weights while the kernel before still runs. Each of eight warps multiplies 16 columns of a
// unit; behind a tile of rows their sums are added in an order that depends on the columns alone,
// so that a token's result does not depend on the other tokens.
#include "cuda/launch.h"
#include "cuda/skinny_linear.h"
#include "cuda/tensor_map.h"
#include "device/hopper.cuh"
#include "device/pdl.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

constexpr int kTileRows = 32;
constexpr int kGroupRows = 8;  // what rows are dealt out by
constexpr int kUnitColumns = 128;
constexpr int kBoxColumns = 64;  // 128 bytes, what one swizzle spans
constexpr int kBoxes = kUnitColumns / kBoxColumns;
constexpr int kBoxRowBytes = kBoxColumns * 2;
constexpr int kGroupBytes = kGroupRows * kBoxRowBytes;
constexpr int kConsumers = 256;  // a warp for every 16 columns of a unit
constexpr int kThreads = kConsumers + 64;
constexpr int kAlignment = 1024;  // of a swizzled box
constexpr int kSumStride = 36;    // of the rows of a tile, so that a warp's stores meet in no bank
constexpr int kAheadUnits = 12;   // brought into the second cache behind a full ring
constexpr int kSumTokens = 16;    // whose sums are added at a time

// The rows [begin, end) of a block, in multiples of kGroupRows.
struct Share {
  int groups_of_each, blocks_with_one_more;

  __device__ int begin(int block) const {
    return (block * groups_of_each + min(block, blocks_with_one_more)) * kGroupRows;
  }
};

// The weight in boxes of a whole tile, and of the rows behind the last whole tile of a block, of
// which there are two numbers.
struct WeightMaps {
  CUtensorMap tile, rest, longer_rest;
};

template <int kTokens>
struct Ring {
  // With few tokens two blocks fit on a multiprocessor; with many, a deep ring is worth more.
  static constexpr int kBytes = (kTokens <= 16 ? 92 : 184) * 1024;
  static constexpr int kWeightBytes = kTileRows * kUnitColumns * 2;
  static constexpr int kXBytes = kTokens * kUnitColumns * 2;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kStages = kBytes / kStageBytes;
  static constexpr int kSumBytes =
      kConsumers / 32 * (kTokens < kSumTokens ? kTokens : kSumTokens) * kSumStride * 4;
  static constexpr int kSharedBytes = kAlignment + kStages * (kStageBytes + 16) + kSumBytes;

  char* memory;
  float* sums;  // [warp, token, row of kSumStride]
  uint64_t* full;
  uint64_t* empty;

  __device__ explicit Ring(char* shared) {
    memory = shared + (kAlignment - device::shared_address(shared) % kAlignment) % kAlignment;
    sums = reinterpret_cast<float*>(memory + kStages * kStageBytes);
    full = reinterpret_cast<uint64_t*>(memory + kStages * kStageBytes + kSumBytes);
    empty = full + kStages;
  }
  __device__ char* weight(int stage) const { return memory + stage * kStageBytes; }
  __device__ char* x(int stage) const { return weight(stage) + kWeightBytes; }
};

#ifdef FT_HOPPER

// A stage of the ring and the phase of its barriers.
template <int kStages>
struct Position {
  int stage = 0, phase = 0;

  __device__ void advance() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

// One thread for the weights, another for x: neither waits for the other.
template <int kTokens>
__device__ void load_weights(const Ring<kTokens>& ring, const WeightMaps& weight, bool is_longer,
                             int begin, int end, int units) {
  using R = Ring<kTokens>;
  const CUtensorMap& rest = is_longer ? weight.longer_rest : weight.rest;
  Position<R::kStages> at;
  int stages_to_fill = R::kStages;
  for (int row = begin; row < end; row += kTileRows) {
    const int rows = min(kTileRows, end - row);
    const CUtensorMap& map = rows == kTileRows ? weight.tile : rest;
    for (int unit = 0; unit < units; ++unit, at.advance()) {
      // Between two products the memory is idle for longer than a ring takes to fill.
      if (stages_to_fill-- == 0) {
        for (int ahead = unit; ahead < min(unit + kAheadUnits, units); ++ahead) {
          device::prefetch_boxes(map, row, ahead * kBoxes);
        }
      }
      uint64_t* const full = &ring.full[at.stage];
      device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
      device::barrier_expect(full, rows * kUnitColumns * 2 + R::kXBytes);
      device::copy_boxes(ring.weight(at.stage), map, row, unit * kBoxes, full, device::kEvictFirst);
    }
  }
}

template <int kTokens>
__device__ void load_x(const Ring<kTokens>& ring, const CUtensorMap& x, int begin, int end,
                       int units) {
  device::wait_for_predecessor();
  Position<Ring<kTokens>::kStages> at;
  for (int row = begin; row < end; row += kTileRows) {
    for (int unit = 0; unit < units; ++unit, at.advance()) {
      device::barrier_wait(&ring.empty[at.stage], at.phase ^ 1);
      device::copy_boxes(ring.x(at.stage), x, 0, unit * kBoxes, &ring.full[at.stage],
                         device::kEvictLast);
    }
  }
}

__device__ __forceinline__ void consumers_wait() {
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
}

// A warp's sums over its columns of a tile: [half of the rows, 8 tokens, register].
template <int kTokens>
using Accumulators = float[2][kTokens / 8][4];

// Adds up the warps' sums, in their order. Afterwards a thread holds row thread % 32 of tokens
// thread / 32, thread / 32 + 8 and so on.
template <int kTokens>
__device__ void add_warps(float (&sums)[kTokens / 8], const Accumulators<kTokens>& acc,
                          float* buffer) {
  constexpr int kGroups = (kTokens < kSumTokens ? kTokens : kSumTokens) / 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto place = [&](int of, int group) {
    return buffer + (of * kGroups + group) * 8 * kSumStride;
  };
#pragma unroll
  for (int first = 0; first < kTokens / 8; first += kGroups) {
#pragma unroll
    for (int i = 0; i < 8 * kGroups; ++i) {
      const int row = i % 8 / 4 * 16 + i / 2 % 2 * 8 + lane / 4, token = lane % 4 * 2 + i % 2;
      place(warp, i / 8)[token * kSumStride + row] = acc[i % 8 / 4][first + i / 8][i % 4];
    }
    consumers_wait();
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      float sum = 0.0f;
#pragma unroll
      for (int of = 0; of < kConsumers / 32; ++of)
        sum += place(of, group)[warp * kSumStride + lane];
      sums[first + group] = sum;
    }
    consumers_wait();
  }
}

// This warp's 16 columns of a stage.
template <typename T, int kTokens>
__device__ void multiply_stage(Accumulators<kTokens>& acc, const Ring<kTokens>& ring, int stage,
                               int rows) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int box = warp / 4, chunk = warp % 4 * 2;  // of 16 bytes
  const auto swizzled = [](int row, int at) {
    return row % 8 * kBoxRowBytes + ((at ^ row % 8) << 4);
  };
  const uint32_t weight = device::shared_address(ring.weight(stage)) + box * rows * kBoxRowBytes;
  uint32_t a[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 16 + lane % 16;
    device::load_matrices(a[half],
                          weight + row / 8 * kGroupBytes + swizzled(row, chunk + lane / 16));
  }
  const uint32_t x = device::shared_address(ring.x(stage)) + box * kTokens * kBoxRowBytes;
  uint32_t b[kTokens / 8][2];
  if constexpr (kTokens == 8) {
    device::load_matrices(b[0], x + swizzled(lane % 8, chunk + lane / 8 % 2));
  } else {
#pragma unroll
    for (int pair = 0; pair < kTokens / 16; ++pair) {
      uint32_t four[4];
      device::load_matrices(four, x + (pair * 2 + lane / 16) * kGroupBytes +
                                      swizzled(lane % 8, chunk + lane / 8 % 2));
      b[2 * pair][0] = four[0], b[2 * pair][1] = four[1];
      b[2 * pair + 1][0] = four[2], b[2 * pair + 1][1] = four[3];
    }
  }
  __syncwarp();
  if (lane == 0) device::barrier_arrive(&ring.empty[stage]);
#pragma unroll
  for (int group = 0; group < kTokens / 8; ++group) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      device::multiply(acc[half][group], a[half], b[group][0], b[group][1], T{});
    }
  }
}

template <typename T, typename Out, int kTokens>
__device__ void consume(const Ring<kTokens>& ring, int begin, int end, int units, Out* out,
                        const T* bias, int tokens, int num_rows) {
  Position<Ring<kTokens>::kStages> at;
  for (int first = begin; first < end; first += kTileRows) {
    const int rows = min(kTileRows, end - first);
    Accumulators<kTokens> acc = {};
    for (int unit = 0; unit < units; ++unit, at.advance()) {
      device::barrier_wait(&ring.full[at.stage], at.phase);
      multiply_stage<T, kTokens>(acc, ring, at.stage, rows);
    }
    float sums[kTokens / 8];
    add_warps<kTokens>(sums, acc, ring.sums);
    const int lane = threadIdx.x % 32, row = first + lane;
    if (lane >= rows || row >= num_rows) continue;
    const float add = bias == nullptr ? 0.0f : device::to_float(bias[row]);
#pragma unroll
    for (int group = 0; group < kTokens / 8; ++group) {
      const int token = group * 8 + threadIdx.x / 32;
      if (token < tokens) {
        out[int64_t{token} * num_rows + row] = device::from_float<Out>(sums[group] + add);
      }
    }
  }
}

#endif  // FT_HOPPER

template <typename T, typename Out, int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    skinny_linear_sm90_kernel(const __grid_constant__ WeightMaps weight,
                              const __grid_constant__ CUtensorMap x, Out* out, const T* bias,
                              int tokens, int rows, int units, Share share) {
#ifdef FT_HOPPER
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
  if (threadIdx.x < kConsumers) {
    device::wait_for_predecessor();
    consume<T>(ring, begin, end, units, out, bias, tokens, rows);
  } else if (threadIdx.x == kConsumers) {
    load_weights(ring, weight, blockIdx.x < share.blocks_with_one_more, begin, end, units);
  } else if (threadIdx.x == kConsumers + 32) {
    load_x(ring, x, begin, end, units);
  }
#endif
}

template <typename T, typename Out, int kTokens>
void run(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
         const Tensor* bias, int64_t stream) {
  const int64_t rows = weight.shape[0], groups = (rows + kGroupRows - 1) / kGroupRows;
  const int64_t blocks = std::min<int64_t>(groups, num_multiprocessors());
  const Share share{static_cast<int>(groups / blocks), static_cast<int>(groups % blocks)};
  constexpr auto kernel = skinny_linear_sm90_kernel<T, Out, kTokens>;
  constexpr int kSharedBytes = Ring<kTokens>::kSharedBytes;
  [[maybe_unused]] static const bool once = (allow_shared(op, kernel, kSharedBytes), true);
  const auto map_of = [&](int rows_of_box) {
    return box_map(op, weight, rows_of_box > 0 ? rows_of_box : kTileRows, kBoxColumns, kBoxes);
  };
  const int rest = share.groups_of_each * kGroupRows % kTileRows;
  const WeightMaps maps{map_of(kTileRows), map_of(rest), map_of((rest + kGroupRows) % kTileRows)};
  launch(op, kernel, static_cast<unsigned>(blocks), kThreads, kSharedBytes, stream, maps,
         box_map(op, x, kTokens, kBoxColumns, kBoxes), out.as<Out>(),
         bias == nullptr ? nullptr : bias->as<T>(), x.shape[0], rows,
         (weight.shape[1] + kUnitColumns - 1) / kUnitColumns, share);
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
