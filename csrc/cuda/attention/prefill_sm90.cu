// SPDX-License-Identifier: BSD-3-Clause
// Which attention over the paged cache Hopper's kernel takes, and its launch.
#include "cuda/attention/prefill_sm90.cuh"

#include <numeric>
#include <type_traits>

#include "cuda/attention/launchers.h"
#include "cuda/launch.h"

namespace ft::cuda {
namespace prefill_sm90 {
namespace {

// Code for other architectures, newer ones too, lacks the products: its kernel is empty, and has
// hardly a register.
template <typename Kernel>
bool is_compiled(const char* op, Kernel* kernel) {
  cudaFuncAttributes attributes{};
  check_cuda(op, cudaFuncGetAttributes(&attributes, kernel));
  return attributes.numRegs >= 128;
}

template <typename T>
constexpr DType kType = std::is_same_v<T, __nv_bfloat16> ? DType::kBFloat16 : DType::kFloat16;

template <typename T>
Tensor queries_of(const Attention<T>& a) {
  return {const_cast<T*>(a.q),
          3,
          {a.num_tokens, a.num_heads, a.head_dim},
          {a.q_token_stride, a.q_head_stride, 1},
          kType<T>,
          true};
}

template <typename T>
Tensor cache_of(const Attention<T>& a, const T* data) {
  return {const_cast<T*>(data),
          4,
          {a.num_pages, a.num_kv_heads, a.block_size, a.head_dim},
          {a.page_stride, a.kv_head_stride, a.key_stride, 1},
          kType<T>,
          true};
}

template <int kHeadDim, typename T>
bool launch_head(const Attention<T>& a, int64_t stream) {
  using S = Shape<kHeadDim>;
  const auto kernel = prefill_sm90_kernel<T, kHeadDim>;
  static const bool can_run = has_programmatic_launch() && is_compiled(a.kOp, kernel);
  if (!can_run) return false;
  static const bool allowed = (allow_shared(a.kOp, kernel, S::kSharedBytes), true);
  (void)allowed;
  const int box_keys = std::gcd(S::kTileKeys, a.block_size);
  const Maps maps{query_map(a.kOp, queries_of(a), kTileQueries),
                  cache_map(a.kOp, cache_of(a, a.k_cache), box_keys),
                  cache_map(a.kOp, cache_of(a, a.v_cache), box_keys), box_keys};
  // Each sequence may leave one tile unfilled.
  const int64_t tiles = a.num_tokens / kTileQueries + a.num_sequences;
  const int64_t blocks = std::min<int64_t>(tiles * a.num_heads, num_multiprocessors());
  launch(a.kOp, kernel, static_cast<unsigned>(blocks), kThreads, S::kSharedBytes, stream, maps, a);
  return true;
}

}  // namespace
}  // namespace prefill_sm90

template <typename T>
bool launch_prefill_sm90(const Attention<T>& attention, int64_t stream) {
  const bool fits = attention.block_size % kGroupKeys == 0 &&
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
