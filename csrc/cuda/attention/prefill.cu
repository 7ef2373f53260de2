// SPDX-License-Identifier: BSD-3-Clause
// Attention over the paged cache for sequences with several queries: the tiles of the plan, those
// with the most keys first.
#include "cuda/attention/prefill.cuh"

#include "cuda/attention/launchers.h"

namespace ft::cuda {

template <typename Shape>
constexpr int kParts = kTileQueries / Shape::kQueries;  // items of a tile of the plan

template <typename T, typename Shape>
__device__ int num_items(const Attention<T>& a, Shape) {
  return a.work[2 * a.num_sequences + 1] * kParts<Shape> * a.num_heads;
}

template <typename T, typename Shape>
__device__ PrefillItem find_item(const Attention<T>& a, Shape shape, int index) {
  __shared__ int sequence;
  const int* cumulative = a.work + a.num_sequences + 1;
  const int last = num_items(a, shape) / a.num_heads - 1;
  const int unit = last - index / a.num_heads, tile = unit / kParts<Shape>;
  for (int i = threadIdx.x; i < a.num_sequences; i += kPrefillThreads) {
    if (cumulative[i] <= tile && tile < cumulative[i + 1]) sequence = i;
  }
  __syncthreads();
  const int first =
      (tile - cumulative[sequence]) * kTileQueries + unit % kParts<Shape> * Shape::kQueries;
  return make_item(a, sequence, index % a.num_heads, first, Shape::kQueries);
}

template <typename T>
int64_t num_full_tiles(const Attention<T>& a) {
  return a.num_tokens / kTileQueries;
}

// Each sequence may leave one tile unfilled. Blocks take several tiles when many do: most batches
// have few prompts among many single queries, and a block without work is not free.
template <typename T, typename Shape>
unsigned num_blocks(const Attention<T>& a, Shape) {
  constexpr int kUnfilled = 32;
  const int64_t tiles = num_full_tiles(a) + std::min(a.num_sequences, kUnfilled);
  return static_cast<unsigned>(tiles * kParts<Shape> * a.num_heads);
}

template <typename T>
void launch_prefill(const Attention<T>& attention, int64_t stream) {
  launch_prefill_heads<Score, 2, 64, 80, 96, 128, 256>(attention, stream);
}

template void launch_prefill(const Attention<__nv_bfloat16>&, int64_t);
template void launch_prefill(const Attention<__half>&, int64_t);

}  // namespace ft::cuda
