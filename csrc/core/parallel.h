// SPDX-License-Identifier: BSD-3-Clause
// Threads for the CPU launchers. The caller works too and waits only for what others have begun: on
// a machine that is busy elsewhere a helper that gets no core costs nothing, where a barrier would
// stall.
#pragma once

#include <cstdint>

namespace ft {

// Threads that work on a parallel_for, the caller included. Not to be called during one.
void set_num_threads(int count);
int num_threads();

using ChunkBody = void (*)(void* context, int64_t begin, int64_t end);
void run_chunks(int64_t count, int64_t grain, ChunkBody body, void* context);

// Calls body(begin, end) for pieces of [0, count) of at most `grain`, in any order, on any thread.
template <typename Body>
void parallel_for(int64_t count, int64_t grain, Body body) {
  if (count <= grain) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  run_chunks(
      count, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); },
      &body);
}

// A grain that gives every thread a few pieces, so that the last one to finish is not late by much.
inline int64_t balanced_grain(int64_t count, int64_t smallest) {
  constexpr int64_t kPiecesPerThread = 4;
  const int64_t grain = count / (kPiecesPerThread * num_threads());
  return grain > smallest ? grain : smallest;
}

}  // namespace ft
