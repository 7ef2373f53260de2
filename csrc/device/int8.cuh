// SPDX-License-Identifier: BSD-3-Clause
// Packed int8 weights as tensor cores multiply them, three instructions for four.
//
// Of four neighbours w0 .. w3 of a row, byte j holds |w_j| in its low 7 bits and the sign of the
// one before it, w_3 for j = 0, in its top bit (ops/int8.py). So a mask leaves the signs and
// magnitudes of w0 and w2 where two 16-bit numbers have them, of which all bits of the exponent are
// 0: subnormal ones, whose values are the weights times a power of two, exactly. Tensor cores
// multiply subnormal numbers like any others.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "device/skinny.cuh"

namespace ft::device {

constexpr int kPackedWeights = 4;  // together
constexpr uint32_t kSignsAndMagnitudes = 0x807F807F;

// Weights 0 and 2 of four, and weights 1 and 3, as two halves of a register, for Int8<T>::operand.
__device__ __forceinline__ uint32_t even_weights(uint32_t four) {
  return four & kSignsAndMagnitudes;
}

__device__ __forceinline__ uint32_t odd_weights(uint32_t four) {
  return __byte_perm(four, four, 0x0321) & kSignsAndMagnitudes;
}

// Which byte of a row holds the sign of the weight whose magnitude is in byte `at`.
__device__ __forceinline__ int sign_byte(int at) {
  return at / kPackedWeights * kPackedWeights + (at + 1) % kPackedWeights;
}

// The weight of those two bytes.
__device__ __forceinline__ float unpacked(uint8_t with_magnitude, uint8_t with_sign) {
  const float magnitude = static_cast<float>(with_magnitude & 0x7F);
  return with_sign & 0x80 ? -magnitude : magnitude;
}

// What x is multiplied with, as the other operand, and what the sums are multiplied with then.
template <typename T>
struct Int8;

// bfloat16 makes 2^-133 of a weight of 1: products with x itself would be subnormal in float32, and
// lose bits. With x times 2^64 they are x times the weight times 2^-69: exact from |x| = 2^-57 on,
// and x is finite up to 2^63.
template <>
struct Int8<__nv_bfloat16> {
  static constexpr float kSumFactor = 0x1p69f;
  static __device__ __forceinline__ uint32_t operand(uint32_t x) {
    constexpr uint32_t kTwo64 = 0x5F805F80;
    return bits<uint32_t>(__hmul2(bits<__nv_bfloat162>(x), bits<__nv_bfloat162>(kTwo64)));
  }
};

// float16 makes 2^-24 of a weight of 1, which float32 takes any x times.
template <>
struct Int8<__half> {
  static constexpr float kSumFactor = 0x1p24f;
  static __device__ __forceinline__ uint32_t operand(uint32_t x) { return x; }
};

}  // namespace ft::device
