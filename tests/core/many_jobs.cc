// SPDX-License-Identifier: BSD-3-Clause
// Runs jobs of different sizes one right after the other; counts those of which a piece was done
// never, twice, or in another job.
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "core/parallel.h"

int main(int, char** arguments) {
  constexpr int64_t kSizes[] = {3, 50, 2, 20, 7};
  constexpr int64_t kLargest = 64;
  ft::set_num_threads(4);
  int64_t num_wrong = 0;
  for (int64_t job = 0; job < std::atoll(arguments[1]); ++job) {
    const int64_t size = kSizes[job % 5];
    std::atomic<int> times[kLargest] = {};
    ft::parallel_for(size, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end && i < kLargest; ++i) ++times[i];
    });
    bool right = true;
    for (int64_t i = 0; i < kLargest; ++i) right = right && times[i] == (i < size);
    num_wrong += !right;
  }
  std::printf("%lld wrong\n", static_cast<long long>(num_wrong));
}
