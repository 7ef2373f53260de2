// SPDX-License-Identifier: BSD-3-Clause
// A sort in shared memory by all threads of a block.
#pragma once

#include <cstdint>

namespace ft::device {

// The first of the keys is the largest afterwards. size: a power of two. Ends with a barrier,
// begins with none. (Batcher, "Sorting networks and their applications", AFIPS 1968)
template <int kThreads>
__device__ __forceinline__ void sort_descending(uint64_t* keys, int size) {
  for (int width = 2; width <= size; width *= 2) {
    for (int distance = width / 2; distance > 0; distance /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kThreads) {
        const int low = 2 * i - (i & (distance - 1)), high = low + distance;
        const uint64_t first = keys[low], second = keys[high];
        if ((first < second) == ((low & width) == 0)) {
          keys[low] = second;
          keys[high] = first;
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace ft::device
