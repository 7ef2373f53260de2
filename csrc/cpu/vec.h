// SPDX-License-Identifier: BSD-3-Clause
// A register of floats at a time, from any storage type. Registers are those of the instruction set
// that this file is compiled for, so everything here lives in that set's namespace. Wider vectors
// would live in memory: compilers keep in registers only what fits into one.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/tensor.h"

#ifndef FT_ISA
#error "compile with -DFT_ISA=generic, avx2 or avx512"
#endif

namespace ft::cpu::FT_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t ivec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t uvec __attribute__((vector_size(4 * kLanes)));
typedef uint16_t hvec __attribute__((vector_size(2 * kLanes)));
typedef int8_t bvec __attribute__((vector_size(kLanes)));

struct bf16 {
  uint16_t bits;
};
using fp16 = _Float16;
typedef fp16 f16vec __attribute__((vector_size(2 * kLanes)));

template <typename To, typename From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

inline vec broadcast(float x) { return vec{} + x; }

inline vec widen(vec x) { return x; }
inline vec widen(hvec x) { return bit_cast<vec>(__builtin_convertvector(x, uvec) << 16); }
// Compilers widen and narrow in many steps where there is an instruction for it.
inline vec widen(f16vec x) {
#if defined(__AVX512F__)
  return bit_cast<vec>(_mm512_maskz_cvtph_ps(-1, bit_cast<__m256i>(x)));
#elif defined(__AVX2__)
  return bit_cast<vec>(_mm256_cvtph_ps(bit_cast<__m128i>(x)));
#else
  return __builtin_convertvector(x, vec);
#endif
}
inline f16vec narrow_fp16(vec x) {
#if defined(__AVX512F__)
  return bit_cast<f16vec>(
      _mm512_maskz_cvtps_ph(-1, bit_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  return bit_cast<f16vec>(_mm256_cvtps_ph(bit_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT));
#else
  return __builtin_convertvector(x, f16vec);
#endif
}
inline vec widen(bvec x) {
#if defined(__AVX512F__)
  const ivec integers = bit_cast<ivec>(_mm512_maskz_cvtepi8_epi32(-1, bit_cast<__m128i>(x)));
#elif defined(__AVX2__)
  const __m128i bytes = _mm_cvtsi64_si128(bit_cast<int64_t>(x));
  const ivec integers = bit_cast<ivec>(_mm256_cvtepi8_epi32(bytes));
#else
  const ivec integers = __builtin_convertvector(x, ivec);
#endif
  return __builtin_convertvector(integers, vec);
}

// Round to nearest even; a NaN keeps a mantissa bit.
inline hvec narrow_bf16(vec x) {
  const uvec bits = bit_cast<uvec>(x);
  const uvec rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const uvec quiet = (bits >> 16) | 0x40;
  const uvec is_nan = bit_cast<uvec>(x != x);
  return __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), hvec);
}

template <typename T>
struct Storage;
template <>
struct Storage<float> {
  using type = vec;
  static type from(vec x) { return x; }
};
template <>
struct Storage<bf16> {
  using type = hvec;
  static type from(vec x) { return narrow_bf16(x); }
};
template <>
struct Storage<fp16> {
  using type = f16vec;
  static type from(vec x) { return narrow_fp16(x); }
};

template <>
struct Storage<int8_t> {
  using type = bvec;
};

template <typename T>
inline vec load(const T* from) {
  typename Storage<T>::type x;
  std::memcpy(&x, from, sizeof(x));
  return widen(x);
}

// The first `count` lanes; the others are zero.
template <typename T>
inline vec load_part(const T* from, int64_t count) {
  typename Storage<T>::type x{};
  std::memcpy(&x, from, count * sizeof(T));
  return widen(x);
}

template <typename T>
inline void store(T* to, vec x) {
  const auto narrow = Storage<T>::from(x);
  std::memcpy(to, &narrow, sizeof(narrow));
}

template <typename T>
inline void store_part(T* to, vec x, int64_t count) {
  const auto narrow = Storage<T>::from(x);
  std::memcpy(to, &narrow, count * sizeof(T));
}

template <typename T>
inline float to_float(T x) {
  return load_part(&x, 1)[0];
}

template <int Lanes>
struct Floats {
  typedef float type __attribute__((vector_size(4 * Lanes)));
};

// One half is added to the other until a pair is left: in registers, which lanes one by one are
// not.
template <int Lanes>
inline float sum_halves(typename Floats<Lanes>::type x) {
  if constexpr (Lanes == 2) {
    return x[0] + x[1];
  } else {
    typename Floats<Lanes / 2>::type halves[2];
    std::memcpy(halves, &x, sizeof(x));
    return sum_halves<Lanes / 2>(halves[0] + halves[1]);
  }
}

// Always the same tree, so that a sum does not depend on who asks for it.
inline float sum(vec x) { return sum_halves<kLanes>(x); }

template <int Lanes>
inline float largest_of_halves(typename Floats<Lanes>::type x) {
  if constexpr (Lanes == 2) {
    return x[0] > x[1] ? x[0] : x[1];
  } else {
    typename Floats<Lanes / 2>::type halves[2];
    std::memcpy(halves, &x, sizeof(x));
    return largest_of_halves<Lanes / 2>(halves[0] > halves[1] ? halves[0] : halves[1]);
  }
}

inline float largest(vec x) { return largest_of_halves<kLanes>(x); }

// Rows become columns: of every two rows `step` apart, pairs of lanes `step` apart are exchanged.
inline void transpose(vec (&rows)[kLanes]) {
  ivec lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
    const ivec is_upper = (lane & step) != 0;
    const ivec from_lower = is_upper ? lane + (kLanes - step) : lane;
    const ivec from_upper = is_upper ? lane + kLanes : lane + step;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if ((i & step) != 0) continue;
      const vec lower = rows[i], upper = rows[i + step];
      rows[i] = __builtin_shuffle(lower, upper, from_lower);
      rows[i + step] = __builtin_shuffle(lower, upper, from_upper);
    }
  }
}

inline vec maximum(vec a, vec b) { return a > b ? a : b; }
inline vec minimum(vec a, vec b) { return a < b ? a : b; }

// exp(x) within 2 units in the last place: 2^n * p(r), r = x - n ln 2, p of degree 6 (Cephes expf).
inline vec exp(vec x) {
  const vec clamped = minimum(maximum(x, broadcast(-87.3f)), broadcast(88.3f));
  const vec shifted = clamped * 1.44269504f + 12582912.0f;  // rounds to an integer in the low bits
  const vec n = shifted - 12582912.0f;
  const vec r = clamped - n * 0.693359375f - n * -2.12194440e-4f;
  vec p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const ivec exponent = (__builtin_convertvector(n, ivec) + 127) << 23;
  const vec result = p * bit_cast<vec>(exponent);
  return x < -87.3f ? vec{} : result;
}

// Calls body(offset, count) over [0, size) in steps of kLanes; count is kLanes but for the last
// step.
template <typename Body>
inline void for_lanes(int64_t size, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) body(i, static_cast<int64_t>(kLanes));
  if (i < size) body(i, size - i);
}

template <typename T>
inline vec load_lanes(const T* from, int64_t count) {
  return count == kLanes ? load(from) : load_part(from, count);
}

template <typename T>
inline void store_lanes(T* to, vec x, int64_t count) {
  if (count == kLanes) {
    store(to, x);
  } else {
    store_part(to, x, count);
  }
}

// Calls body with a value of the storage type of `tensor`; the launcher has checked that it is one.
template <typename Body>
inline void dispatch(const Tensor& tensor, Body body) {
  switch (tensor.dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kBFloat16:
      return body(bf16{});
    default:
      return body(fp16{});
  }
}

}  // namespace ft::cpu::FT_ISA
