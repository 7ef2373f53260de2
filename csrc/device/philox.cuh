// SPDX-License-Identifier: BSD-3-Clause
// Philox4x32-10 (Salmon et al., SC 2011): random numbers as a function of key and counter.
#pragma once

#include <cstdint>

namespace ft::device {

// The first of the four words for the key `seed` and the counter (position, 0, 0, 0).
__device__ __forceinline__ uint32_t philox(uint64_t seed, uint32_t position) {
  uint32_t counter[4] = {position, 0, 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t low = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t high = uint64_t{0xCD9E8D57u} * counter[2];
    counter[0] = static_cast<uint32_t>(high >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<uint32_t>(high);
    counter[2] = static_cast<uint32_t>(low >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<uint32_t>(low);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter[0];
}

// In (0, 1): the upper 24 bits of the word, as (n + 1/2) / 2^24.
__device__ __forceinline__ double philox_uniform(uint64_t seed, uint32_t position) {
  return ((philox(seed, position) >> 8) + 0.5) * 0x1p-24;
}

}  // namespace ft::device
