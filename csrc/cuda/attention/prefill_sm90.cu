// SPDX-License-Identifier: BSD-3-Clause
// Which attention over the paged cache Hopper's kernel takes, and its launch.
#include <numeric>

#include "cuda/attention/launchers.h"
#include "cuda/attention/prefill_sm90_launch.cuh"
#include "cuda/attention/prefill_sm90_paged.cuh"

namespace ft::cuda {
namespace prefill_sm90 {
namespace {

template <typename T>
Tensor cache_of(const Attention<T>& a, const T* data) {
  return {const_cast<T*>(data),
          4,
          {a.num_pages, a.num_kv_heads, a.block_size, a.head_dim},
          {a.page_stride, a.kv_head_stride, a.key_stride, 1},
          kType<T>,
          true};
}

template <typename T>
Maps maps_of(const Attention<T>& a, int tile_keys) {
  const int box_keys = std::gcd(tile_keys, a.block_size);
  const Tensor q = heads_of(a, a.q, a.q_token_stride, a.q_head_stride);
  return {query_map(a.kOp, q, kTileQueries), cache_map(a.kOp, cache_of(a, a.k_cache), box_keys),
          cache_map(a.kOp, cache_of(a, a.v_cache), box_keys), box_keys};
}

template <int kHeadDim, typename T>
bool launch_head(const Attention<T>& a, int64_t stream) {
  using S = Shape<Attention<T>, kHeadDim, kTileQueries / kWarpgroupRows>;
  return launch_shape<S>(a, [&] { return maps_of(a, S::kTileKeys); }, stream);
}

}  // namespace
}  // namespace prefill_sm90

template <typename T>
bool launch_prefill_sm90(const Attention<T>& attention, int64_t stream) {
  const bool fits = attention.block_size % kCacheGroupKeys == 0 &&
                    attention.kv_head_stride == attention.block_size * attention.key_stride;
  if (!fits) return false;
  switch (attention.head_dim) {
    case 64:
      return prefill_sm90::launch_head<64>(attention, stream);
    case 128:
      return prefill_sm90::launch_head<128>(attention, stream);
    case 256:
      return prefill_sm90::launch_head<256>(attention, stream);
    default:
      return false;
  }
}

template bool launch_prefill_sm90(const Attention<__nv_bfloat16>&, int64_t);
template bool launch_prefill_sm90(const Attention<__half>&, int64_t);

}  // namespace ft::cuda
