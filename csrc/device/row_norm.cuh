// SPDX-License-Identifier: BSD-3-Clause
// The norm of a row [H] whose elements the threads along x of a block hold in registers. Its bits
// depend on their number and on kPacks (cuda/row_threads.h), and on nothing else of the kernel; a
// warp that holds a row alone gives those of as many warps with a pack for each thread.
#pragma once

#include <cstdint>

#include "device/reduce.cuh"
#include "device/vec.cuh"

namespace ft::device {

template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  __device__ T* operator[](int64_t row) const { return data + row * stride; }
};

template <typename T>
struct NormArguments {
  Rows<T> out, x, residual;  // residual: null where there is no sum before the norm
  const T *weight, *bias;    // bias: null where the norm does not subtract the mean
  int num_rows, size;
  float eps;
  bool keeps_sum;  // in `residual`
};

// What a thread does: the packs threadIdx.x, threadIdx.x + blockDim.x, ... of a row. kAlone: of a
// warp that does the work of kPacks of them.
template <typename T, int kLanes, int kPacks, bool kAlone>
struct Slice {
  static_assert(!kAlone || kPacks <= 4);
  Pack<T, kLanes> packs[kPacks];

  // Calls body(i, at): pack i of this thread starts at element `at` of the row.
  template <typename Body>
  static __device__ __forceinline__ void each(int size, Body body) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int at = (threadIdx.x + i * blockDim.x) * kLanes;
      if (at < size) body(i, at);
    }
  }

  __device__ __forceinline__ void load(const T* row, int size) {
    each(size, [&](int i, int at) { packs[i] = load_pack<kLanes>(row + at); });
  }

  // The sum over the whole row of f(element), for every thread. `partial`: shared, used by nobody
  // else.
  template <typename Function>
  __device__ __forceinline__ float sum(int size, float* partial, Function f) const {
    float totals[kAlone ? 4 : 1] = {};
    each(size, [&](int i, int) {
      float& total = totals[kAlone ? i : 0];
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) total += f(to_float(packs[i].lanes[lane]));
    });
    if constexpr (kAlone) {
#pragma unroll
      for (int i = 0; i < kPacks; ++i) totals[i] = warp_sum(totals[i]);
      return (totals[0] + totals[2]) + (totals[1] + totals[3]);  // as block_sum adds those of warps
    }
    return blockDim.x == 32 ? warp_sum(totals[0]) : block_sum(totals[0], partial);
  }
};

template <typename T, int kLanes>
__device__ __forceinline__ Pack<T, kLanes> sum_of(const Pack<T, kLanes>& a,
                                                  const Pack<T, kLanes>& b) {
  Pack<T, kLanes> result;
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) {
    result.lanes[lane] = from_float<T>(to_float(a.lanes[lane]) + to_float(b.lanes[lane]));
  }
  return result;
}

// Sums of one row. A block that takes several needs two, in turns: a warp may still read one when
// the others write the next.
using NormPartials = float[2][kMaxWarps];

template <typename T, int kLanes, int kPacks, bool kCentred, bool kAlone = false>
class RowNorm {
 public:
  using Row = Slice<T, kLanes, kPacks, kAlone>;

  // Loads the weights where they fit beside the row; may come before the wait for the predecessor.
  __device__ __forceinline__ explicit RowNorm(const NormArguments<T>& a) {
    if (kEarly) weight_.load(a.weight, a.size);
    if (kEarly && kCentred) bias_.load(a.bias, a.size);
  }

  // x += residual, in memory where somebody needs it.
  __device__ __forceinline__ void add(const NormArguments<T>& a, int64_t row, Row& x,
                                      const Row& residual) const {
    Row::each(a.size, [&](int i, int at) {
      x.packs[i] = sum_of(residual.packs[i], x.packs[i]);
      if (a.keeps_sum) store_pack(a.residual[row] + at, x.packs[i]);
    });
  }

  // out = the norm of x, which is overwritten.
  __device__ __forceinline__ void store(const NormArguments<T>& a, int64_t row, Row& x,
                                        NormPartials& partial) {
    float mean = 0.0f;
    if (kCentred) mean = x.sum(a.size, partial[0], [](float value) { return value; }) / a.size;
    const float variance = x.sum(a.size, partial[1], [&](float value) {
      return (value - mean) * (value - mean);
    }) / a.size;
    const float scale = rsqrtf(variance + a.eps);
    Row::each(a.size, [&](int i, int at) {
      if (!kEarly) weight_.packs[i] = load_pack<kLanes>(a.weight + at);
      if (!kEarly && kCentred) bias_.packs[i] = load_pack<kLanes>(a.bias + at);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        float value = (to_float(x.packs[i].lanes[lane]) - mean) * scale *
                      to_float(weight_.packs[i].lanes[lane]);
        if (kCentred) value += to_float(bias_.packs[i].lanes[lane]);
        x.packs[i].lanes[lane] = from_float<T>(value);
      }
      store_pack(a.out[row] + at, x.packs[i]);
    });
  }

 private:
  static constexpr bool kEarly = kPacks <= 2;  // more do not fit beside the row
  Row weight_, bias_;
};

}  // namespace ft::device
