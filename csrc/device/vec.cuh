// SPDX-License-Identifier: BSD-3-Clause
// Sixteen bytes at a time: N elements of T, converted to and from float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace ft::device {

template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T lanes[kSize];
};

template <typename T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  Pack<T> pack;
  *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(from);
  return pack;
}

template <typename T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&pack);
}

template <typename T>
__device__ __forceinline__ float to_float(T x) {
  return static_cast<float>(x);
}

template <typename T>
__device__ __forceinline__ T from_float(float x) {
  return static_cast<T>(x);
}

}  // namespace ft::device
