// SPDX-License-Identifier: BSD-3-Clause
// Several elements of a row at a time, sixteen bytes unless said otherwise, and their way to float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace ft::device {

// Loaded and stored as a whole; memory holds it at a multiple of its size, at most of 16 bytes.
template <typename T, int kLanes = 16 / sizeof(T)>
struct alignas(kLanes * sizeof(T) < 16 ? kLanes * sizeof(T) : 16) Pack {
  static constexpr int kSize = kLanes;
  T lanes[kLanes];
};

template <int kBytes>
struct Word {
  using type = uint4;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<1> {
  using type = unsigned char;
};

// A struct's own copy would go element by element.
template <typename P>
__device__ __forceinline__ void copy_words(P* to, const P* from) {
  using W = typename Word<sizeof(P)>::type;
  static_assert(sizeof(P) % sizeof(W) == 0);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(P) / sizeof(W)); ++i) {
    reinterpret_cast<W*>(to)[i] = reinterpret_cast<const W*>(from)[i];
  }
}

template <int kLanes, typename T>
__device__ __forceinline__ Pack<T, kLanes> load_pack(const T* from) {
  Pack<T, kLanes> pack;
  copy_words(&pack, reinterpret_cast<const Pack<T, kLanes>*>(from));
  return pack;
}

template <typename T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  return load_pack<Pack<T>::kSize>(from);
}

template <typename T, int kLanes>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, kLanes>& pack) {
  copy_words(reinterpret_cast<Pack<T, kLanes>*>(to), &pack);
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
