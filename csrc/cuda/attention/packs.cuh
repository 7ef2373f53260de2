// SPDX-License-Identifier: BSD-3-Clause
// Who copies what: rows of kPacks packs of 16 bytes, dealt out to kThreads threads in turn.
#pragma once

namespace ft::cuda {

// The packs of one thread. Where it keeps its column, the row says so in a way that the compiler
// turns into constant offsets.
template <int kThreads, int kPacks>
struct Packs {
  int thread;

  static constexpr bool kKeepsColumn = kThreads % kPacks == 0;

  template <int kRows>
  static constexpr int kCount = kRows * kPacks / kThreads;

  __device__ int row(int index) const {
    if constexpr (kKeepsColumn) return thread / kPacks + index * (kThreads / kPacks);
    return (index * kThreads + thread) / kPacks;
  }
  __device__ int column(int index) const {
    if constexpr (kKeepsColumn) return thread % kPacks;
    return (index * kThreads + thread) % kPacks;
  }
};

}  // namespace ft::cuda
