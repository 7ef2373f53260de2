// SPDX-License-Identifier: BSD-3-Clause
// Heads turned by their positions. The two packs that hold `kLanes` pairs of a head: for pairs
// (i, i + R/2) one in each half of the R turned dimensions, for pairs (2i, 2i + 1) two neighbours.
#pragma once

#include "cuda/launch.h"
#include "device/vec.cuh"

namespace ft::cuda {

struct Angles {
  const int32_t* positions;  // [T]
  const float* cos_sin;      // [P, 2 * half]
  int half;                  // R/2

  __device__ const float* row(int position) const {
    return cos_sin + static_cast<int64_t>(position) * 2 * half;
  }
};

template <int kLanes>
struct Turn {
  device::Pack<float, kLanes> cos, sin;
  int first, second;  // elements at which the packs start
};

template <int kLanes, bool kInterleaved>
__device__ __forceinline__ Turn<kLanes> load_turn(const float* row, int half, int index) {
  const float* cos = row + index * kLanes;
  const int first = kInterleaved ? 2 * index * kLanes : index * kLanes;
  return {device::load_pack<kLanes>(cos), device::load_pack<kLanes>(cos + half), first,
          first + (kInterleaved ? kLanes : half)};
}

template <typename T, int kLanes>
struct Pairs {
  device::Pack<T, kLanes> first, second;

  __device__ __forceinline__ void load(const T* head, const Turn<kLanes>& turn) {
    first = device::load_pack<kLanes>(head + turn.first);
    second = device::load_pack<kLanes>(head + turn.second);
  }
  __device__ __forceinline__ void store(T* head, const Turn<kLanes>& turn) const {
    device::store_pack(head + turn.first, first);
    device::store_pack(head + turn.second, second);
  }

  // Roundings are spelled out: every kernel that turns heads gets the same bits.
  template <bool kInterleaved>
  __device__ __forceinline__ void rotate(const Turn<kLanes>& turn) {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      T& a = element(kInterleaved ? 2 * i : i);
      T& b = element(kInterleaved ? 2 * i + 1 : kLanes + i);
      const float x = device::to_float(a), y = device::to_float(b);
      const float cos = turn.cos.lanes[i], sin = turn.sin.lanes[i];
      a = device::from_float<T>(__fmaf_rn(x, cos, -__fmul_rn(y, sin)));
      b = device::from_float<T>(__fmaf_rn(y, cos, __fmul_rn(x, sin)));
    }
  }

 private:
  // Of the two packs in a row.
  __device__ __forceinline__ T& element(int i) {
    return i < kLanes ? first.lanes[i] : second.lanes[i - kLanes];
  }
};

// q: [T, N, D], k: [T, K, D]; positions: [T] int32; cos_sin: [P, R] float32.
void check_rope(const char* op, const Tensor& q, const Tensor& k, const Tensor& positions,
                const Tensor& cos_sin);

}  // namespace ft::cuda
