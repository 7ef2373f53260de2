// SPDX-License-Identifier: BSD-3-Clause
// One pack of every rank, and their sum.
#pragma once

#include "device/lamport.cuh"
#include "device/vec.cuh"

namespace ft::device {

// Puts the pack of this rank between those of the others, as they have got it.
template <int kRanks>
__device__ void put_own(uint4 (&parts)[kRanks], int rank, uint4 pack) {
  pack = present(pack);
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    if (r == rank) parts[r] = pack;
  }
}

// In fp32 and rank order, rounded once: every rank has the same bits.
template <typename T, int kRanks>
__device__ uint4 sum_of_ranks(const uint4 (&parts)[kRanks], int size) {
  float total[Pack<T>::kSize];
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    if (r >= size) break;
    const Pack<T>& part = *reinterpret_cast<const Pack<T>*>(&parts[r]);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const float value = to_float(part.lanes[i]);
      total[i] = r == 0 ? value : total[i] + value;
    }
  }
  Pack<T> result;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) result.lanes[i] = from_float<T>(total[i]);
  return *reinterpret_cast<const uint4*>(&result);
}

}  // namespace ft::device
