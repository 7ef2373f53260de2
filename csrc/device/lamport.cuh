// SPDX-License-Identifier: BSD-3-Clause
// Packs of 16 bytes that are their own flags: written straight into the memory of another GPU,
// where the receiver polls until no word of them is kAbsent any more (Lamport's queue of one writer
// and one reader, as in the low-latency collectives of TensorRT-LLM). So a message takes one trip;
// flags beside the data would need a fence that waits for the acknowledgement of the data before
// the flag may leave. The price: a pattern that data may not have, and buffers that must be cleared
// before their next use.
#pragma once

namespace ft::device {

// A NaN in every type, with a payload that no arithmetic makes.
inline constexpr unsigned kAbsent = 0xffffffffu;

// The same values without that pattern: a NaN stays one, in either half.
__device__ __forceinline__ uint4 present(uint4 pack) {
  const auto word = [](unsigned x) { return x == kAbsent ? 0x7fffffffu : x; };
  return make_uint4(word(pack.x), word(pack.y), word(pack.z), word(pack.w));
}

__device__ __forceinline__ bool has_arrived(uint4 pack) {
  return pack.x != kAbsent && pack.y != kAbsent && pack.z != kAbsent && pack.w != kAbsent;
}

// Each word is read and written whole; the four of a pack may become visible one by one.
__device__ __forceinline__ uint4 load_system(const uint4* from) {
  uint4 pack;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(pack.x), "=r"(pack.y), "=r"(pack.z), "=r"(pack.w)
               : "l"(from));
  return pack;
}

__device__ __forceinline__ void store_system(uint4* to, uint4 pack) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(pack.x),
               "r"(pack.y), "r"(pack.z), "r"(pack.w)
               : "memory");
}

__device__ __forceinline__ unsigned load_system(const unsigned* from) {
  unsigned word;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(word) : "l"(from));
  return word;
}

__device__ __forceinline__ void store_system(unsigned* to, unsigned word) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}

// Of a clock that goes on while another process has the GPU.
__device__ __forceinline__ unsigned long long nanoseconds() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

}  // namespace ft::device
