// SPDX-License-Identifier: BSD-3-Clause
// kv_write: keys and values [T, K, D] into their slots of the cache. One thread moves one pack.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "cuda/paged_cache.cuh"
#include "device/pdl.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

constexpr int kThreads = 128;

// Grid: tokens, packs of a token's keys and behind them those of its values.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    kv_write_kernel(Heads<T> k, Heads<T> v, PagedCache<T> k_cache, PagedCache<T> v_cache,
                    const int32_t* slot_mapping, int num_heads, int head_packs) {
  const int slot = slot_mapping[blockIdx.x];
  device::wait_for_predecessor();
  const int pack = blockIdx.y * kThreads + threadIdx.x;
  const int head = pack / head_packs, at = pack % head_packs * kLanes;
  if (slot < 0 || head >= 2 * num_heads) return;
  if (head < num_heads) {
    device::store_pack(k_cache.at(slot, head) + at,
                       device::load_pack<kLanes>(k.at(blockIdx.x, head) + at));
  } else {
    device::store_pack(v_cache.at(slot, head - num_heads) + at,
                       device::load_pack<kLanes>(v.at(blockIdx.x, head - num_heads) + at));
  }
}

void check_pair(const char* op, const char* argument, const Tensor& rows,
                const char* cache_argument, const Tensor& cache, const Tensor& k) {
  check_heads(op, argument, rows, k);
  check_shape(op, argument, rows, {k.shape[0], k.shape[1], k.shape[2]});
  check_shape(op, cache_argument, cache, {-1, k.shape[1], -1, k.shape[2]});
  check_dtype(op, cache_argument, cache, k.dtype);
  check_rows(op, cache_argument, cache);
  check_on_gpu(op, cache_argument, cache);
}

}  // namespace

void check_heads(const char* op, const char* argument, const Tensor& heads, const Tensor& k) {
  check_shape(op, argument, heads, {k.shape[0], -1, k.shape[2]});
  check_dtype(op, argument, heads, k.dtype);
  check_rows(op, argument, heads);
  check_on_gpu(op, argument, heads);
}

void check_cache_write(const char* op, const Tensor& k, const Tensor& v, const Tensor& k_cache,
                       const Tensor& v_cache, const Tensor& slot_mapping) {
  check_float(op, "k", k);
  check_shape(op, "k", k, {-1, -1, -1});
  check_pair(op, "k", k, "k_cache", k_cache, k);
  check_pair(op, "v", v, "v_cache", v_cache, k);
  check_shape(op, "slot_mapping", slot_mapping, {k.shape[0]});
  check_dtype(op, "slot_mapping", slot_mapping, DType::kInt32);
  check_contiguous(op, "slot_mapping", slot_mapping);
  check_on_gpu(op, "slot_mapping", slot_mapping);
}

void kv_write(const Tensor& k, const Tensor& v, const Tensor& k_cache, const Tensor& v_cache,
              const Tensor& slot_mapping, int64_t stream) {
  check_cache_write("kv_write", k, v, k_cache, v_cache, slot_mapping);
  const int64_t num_heads = k.shape[1], head_dim = k.shape[2];
  if (k.shape[0] == 0 || num_heads == 0 || head_dim == 0) return;
  dispatch_packs({&k, &v, &k_cache, &v_cache}, [&](auto type, auto lanes) {
    using T = decltype(type);
    const int64_t head_packs = head_dim / lanes;
    const dim3 grid(static_cast<unsigned>(k.shape[0]),
                    divide_up(2 * num_heads * head_packs, kThreads));
    launch("kv_write", kv_write_kernel<T, lanes>, grid, kThreads, 0, stream, Heads<T>(k),
           Heads<T>(v), PagedCache<T>(k_cache), PagedCache<T>(v_cache), slot_mapping.as<int32_t>(),
           num_heads, head_packs);
  });
}

}  // namespace ft::cuda
