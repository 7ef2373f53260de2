// SPDX-License-Identifier: BSD-3-Clause
// tile_linear on Hopper: a block multiplies 64 tokens with a few rows of the weight, over all
// columns or a slice of them, and all that it reads fits into its shared memory. So there is no
// ring: everything is asked for at once, the weight while the kernel before still runs. Blocks of a
// cluster have the slices of one tile, whose sums are added in their order.
#pragma once

#include "cuda/skinny_result_sm90.cuh"
#include "cuda/tensor_map.h"
#include "device/cluster.cuh"
#include "device/pdl.cuh"
#include "device/wgmma.cuh"

namespace ft::cuda::tile {

constexpr int kThreads = 128;     // a warpgroup
constexpr int kTokens = 64;       // of a tile
constexpr int kUnitColumns = 64;  // 128 bytes, what one swizzle spans
constexpr int kRowBytes = 128, kGroupBytes = 8 * kRowBytes;
constexpr int kXUnitBytes = kTokens * kRowBytes;
constexpr int kMostUnits = 16;    // of a slice
constexpr int kAlignment = 1024;  // of a swizzled box
constexpr int kBarrierBytes = (kMostUnits + 1) * static_cast<int>(sizeof(uint64_t));
constexpr int kMostSharedBytes = 227 * 1024;

template <typename T>
using Result = sm90::Result<T, T, 1>;

// kRows_: of the weight, in a tile. kSlices_: of its columns.
template <typename T_, int kRows_, int kSlices_>
struct Shape {
  using T = T_;
  static constexpr int kRows = kRows_, kSlices = kSlices_;
  static constexpr int kSize = kRows / 2;  // sums of a thread
  static constexpr int kUnitBytes = kRows * kRowBytes;
  static constexpr int kSumStride = kRows + 4;
  static_assert(kTokens * kSumStride * sizeof(float) <= 4 * kXUnitBytes);

  static constexpr int shared_bytes(int units) {
    return kAlignment + units * (kXUnitBytes + kUnitBytes) + kBarrierBytes;
  }
};

#ifdef FT_WGMMA

// The shared memory of a block.
template <typename S>
struct Memory {
  char *x, *weight;  // units, one behind the other
  float* sums;       // [token][row], where x was
  uint64_t *x_came, *weight_came;

  __device__ Memory(char* shared, int units)
      : x(shared + (kAlignment - device::shared_address(shared) % kAlignment) % kAlignment),
        weight(x + units * kXUnitBytes),
        sums(reinterpret_cast<float*>(x)),
        x_came(reinterpret_cast<uint64_t*>(weight + units * S::kUnitBytes)),
        weight_came(x_came + kMostUnits) {}
};

// Which tile a block has, and which slice of it.
template <typename S>
struct Place {
  int slice, token, row;  // the first ones

  __device__ explicit Place(int tokens) : slice(blockIdx.x % S::kSlices) {
    const int tile = blockIdx.x / S::kSlices, of_tokens = (tokens + kTokens - 1) / kTokens;
    token = tile % of_tokens * kTokens;
    row = tile / of_tokens * S::kRows;
  }
};

// By one thread.
template <typename S>
__device__ void load_weight(const Memory<S>& memory, const CUtensorMap& weight,
                            const Place<S>& place, int units) {
  device::barrier_init(memory.weight_came, 1);
  for (int unit = 0; unit < units; ++unit) device::barrier_init(&memory.x_came[unit], 1);
  device::barrier_init_fence();
  device::barrier_expect(memory.weight_came, units * S::kUnitBytes);
  device::copy_boxes(memory.weight, weight, place.row, place.slice * units, memory.weight_came,
                     device::kEvictNormal);
}

// A lane for each unit, since a thread takes its time to ask for a copy.
template <typename S>
__device__ void load_x(const Memory<S>& memory, const CUtensorMap& x, const Place<S>& place,
                       int units) {
  const int unit = threadIdx.x;
  if (unit < units) {
    device::barrier_expect(&memory.x_came[unit], kXUnitBytes);
    device::copy_boxes(memory.x + unit * kXUnitBytes, x, place.token, place.slice * units + unit,
                       &memory.x_came[unit], device::kEvictNormal);
  }
  __syncwarp();
}

template <typename S>
__device__ void multiply(float (&sums)[S::kSize], const Memory<S>& memory, int units) {
  device::barrier_wait(memory.weight_came, 0);
  for (int unit = 0; unit < units; ++unit) {
    device::barrier_wait(&memory.x_came[unit], 0);
    const auto strip = [&](const char* start) {
      return device::strip_descriptor(start, kGroupBytes, 0);
    };
    const uint64_t a = strip(memory.x + unit * kXUnitBytes);
    const uint64_t b = strip(memory.weight + unit * S::kUnitBytes);
    device::pin(sums);
    device::products_fence();
#pragma unroll
    for (int i = 0; i < kUnitColumns / 16; ++i) {
      device::multiply_rows<typename S::T>(sums, a + i * 2, b + i * 2, unit > 0 || i > 0);
    }
    device::products_commit();
  }
  device::products_wait<0>();
  device::pin(sums);
}

// Of two neighbouring columns.
template <typename T>
__device__ float2 biases(const Result<T>& result, int column) {
  return {device::to_float(result.bias_of(column, result.columns)),
          device::to_float(result.bias_of(column + 1, result.columns))};
}
template <typename T, typename Activate>
__device__ void store_pair(const Result<T>& result, int token, int column, float2 sum, float2 bias,
                           const Activate& activate) {
  if (token >= result.tokens || column >= result.columns) return;
  const float x = activate(sum.x + bias.x, column), y = activate(sum.y + bias.y, column + 1);
  device::store_pack<T, 2>(result.out + int64_t{token} * result.columns + column,
                           {device::from_float<T>(x), device::from_float<T>(y)});
}

// A thread's sums of a tile: two tokens, eight apart, and two columns of each eight.
__device__ __forceinline__ int first_token() {
  return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
}
__device__ __forceinline__ int first_column() { return threadIdx.x % 4 * 2; }

// How a thread stores its sums where they are all columns'. Biases come before the sums are there.
template <typename S>
class Whole {
 public:
  using T = typename S::T;

  __device__ Whole(const Result<T>& result, const Place<S>& place)
      : token_(place.token + first_token()), column_(place.row + first_column()) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) bias_[i] = biases(result, column_ + i * 8);
  }
  __device__ void exchange(const Memory<S>&, const float (&)[S::kSize]) const {}
  template <typename Activate>
  __device__ void store(const Result<T>& result, const Memory<S>&, const float (&sums)[S::kSize],
                        const Activate& activate) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float* const of = sums + 4 * i;
      store_pair(result, token_, column_ + i * 8, {of[0], of[1]}, bias_[i], activate);
      store_pair(result, token_ + 8, column_ + i * 8, {of[2], of[3]}, bias_[i], activate);
    }
  }
  __device__ void leave() const {}

 private:
  static constexpr int kCount = S::kRows / 8;
  int token_, column_;
  float2 bias_[kCount];
};

// How it stores a part of those that the blocks of a cluster have together: two columns of some
// tokens.
template <typename S>
class Sliced {
 public:
  using T = typename S::T;

  __device__ Sliced(const Result<T>& result, const Place<S>& place)
      : token_(place.token),
        row_(place.row + pair() * 2),
        begin_(place.slice * kShare + threadIdx.x / kPairs),
        end_(min((place.slice + 1) * kShare, kTokens)),
        bias_(biases(result, row_)) {}

  __device__ void exchange(const Memory<S>& memory, const float (&sums)[S::kSize]) const {
    __syncthreads();  // no product reads x any more
#pragma unroll
    for (int i = 0; i < S::kRows / 8; ++i) {
      float* const to = memory.sums + first_token() * S::kSumStride + first_column() + i * 8;
      *reinterpret_cast<float2*>(to) = {sums[4 * i], sums[4 * i + 1]};
      *reinterpret_cast<float2*>(to + 8 * S::kSumStride) = {sums[4 * i + 2], sums[4 * i + 3]};
    }
    Cluster::sync();
  }

  template <typename Activate>
  __device__ void store(const Result<T>& result, const Memory<S>& memory, const float (&)[S::kSize],
                        const Activate& activate) const {
    if (threadIdx.x >= kTokensAtATime * kPairs) return;
#pragma unroll 2
    for (int token = begin_; token < end_; token += kTokensAtATime) {
      float2 parts[S::kSlices], sum{0.0f, 0.0f};
#pragma unroll
      for (int slice = 0; slice < S::kSlices; ++slice) {
        const float* const from = Cluster::at(memory.sums, slice) + token * S::kSumStride;
        parts[slice] = *reinterpret_cast<const float2*>(from + pair() * 2);
      }
#pragma unroll
      for (const float2& part : parts) sum = {sum.x + part.x, sum.y + part.y};
      store_pair(result, token_ + token, row_, sum, bias_, activate);
    }
  }
  __device__ void leave() const { Cluster::sync(); }  // the others read here

 private:
  using Cluster = device::Cluster<S::kSlices>;
  static constexpr int kPairs = S::kRows / 2, kTokensAtATime = kThreads / kPairs;
  static constexpr int kShare = (kTokens + S::kSlices - 1) / S::kSlices;

  static __device__ int pair() { return threadIdx.x % kPairs; }

  int token_, row_, begin_, end_;
  float2 bias_;
};

#endif  // FT_WGMMA

template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    tile_linear_sm90_kernel(const __grid_constant__ CUtensorMap x,
                            const __grid_constant__ CUtensorMap weight,
                            const Result<typename S::T> result, int units) {
#ifdef FT_WGMMA
  extern __shared__ char shared[];
  const Memory<S> memory(shared, units);
  const Place<S> place(result.tokens);
  if (threadIdx.x == 0) load_weight(memory, weight, place, units);
  if (threadIdx.x == 32) device::prefetch_map(x);
  const std::conditional_t<S::kSlices == 1, Whole<S>, Sliced<S>> part(result, place);
  __syncthreads();
  device::wait_for_predecessor();
  if (threadIdx.x < 32) load_x(memory, x, place, units);
  float sums[S::kSize];
  multiply<S>(sums, memory, units);
  part.exchange(memory, sums);
  result.with_activation([&](const auto& activate) { part.store(result, memory, sums, activate); });
  part.leave();
#endif
}

}  // namespace ft::cuda::tile
