// SPDX-License-Identifier: BSD-3-Clause
// Values of 16 bits that go from block to block of one kernel and are their own flags, as those of
// lamport.cuh go from GPU to GPU: memory is cleared to kAbsent before, and a reader polls until no
// element is absent any more. So a value is there after one trip, without a fence, and no block
// waits for more than it needs. All blocks of the kernel must run at a time.
#pragma once

#include <cstdint>

#include "device/lamport.cuh"

namespace ft::device {

// Some bit of kAbsences is set where an element is absent, be it of one word or of several that are
// or'ed. Arithmetic makes no element of the absent pattern: its NaN has another one. (Mycroft's
// test for a zero, of the complement: what it borrows comes from an element that is zero)
constexpr uint32_t kAbsences = 0x80008000u;
__device__ __forceinline__ uint32_t absences(uint32_t word) {
  static_assert(kAbsent == 0xffffffffu);
  return (~word - 0x00010001u) & word;
}
__device__ __forceinline__ uint32_t absences(uint4 pack) {
  return absences(pack.x) | absences(pack.y) | absences(pack.z) | absences(pack.w);
}
__device__ __forceinline__ bool is_complete(uint4 pack) {
  return (absences(pack) & kAbsences) == 0;
}

__device__ __forceinline__ uint32_t load_relaxed(const uint32_t* from) {
  uint32_t word;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
  return word;
}
__device__ __forceinline__ uint4 load_relaxed(const uint4* from) {
  uint4 pack;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(pack.x), "=r"(pack.y), "=r"(pack.z), "=r"(pack.w)
               : "l"(from)
               : "memory");
  return pack;
}
template <typename T>
__device__ __forceinline__ void store_relaxed(T* to, T value) {
  static_assert(sizeof(T) == 2);
  asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(to),
               "h"(*reinterpret_cast<const unsigned short*>(&value))
               : "memory");
}

// Bounds a wait: a value that does not come ends the kernel with an error.
class Patience {
 public:
  __device__ __forceinline__ void spend() {
    if (++spins_ % kSpins != 0) return;
    const unsigned long long now = nanoseconds();
    if (since_ == 0) since_ = now;
    if (now - since_ > kTimeout) __trap();
  }

 private:
  static constexpr unsigned kSpins = 4096;                       // between looks at the clock
  static constexpr unsigned long long kTimeout = 5'000'000'000;  // ns

  unsigned spins_ = 0;
  unsigned long long since_ = 0;
};

// Waits for a pack.
__device__ __forceinline__ uint4 arrived(const uint4* from) {
  Patience patience;
  uint4 pack = load_relaxed(from);
  while (!is_complete(pack)) {
    patience.spend();
    pack = load_relaxed(from);
  }
  return pack;
}

}  // namespace ft::device
