// SPDX-License-Identifier: BSD-3-Clause
// Copies keys and values [T, K, D] into their places in the cache [blocks, K, block_size, D].
#include "cpu/launchers.h"
#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {
namespace {

template <typename T>
void write_token(const Tensor& cache, const Tensor& rows, int64_t token, int64_t slot) {
  const int64_t block_size = cache.shape[2];
  T* place =
      cache.as<T>() + slot / block_size * cache.strides[0] + slot % block_size * cache.strides[2];
  const T* row = rows.as<T>() + token * rows.strides[0];
  for (int64_t head = 0; head < rows.shape[1]; ++head) {
    std::memcpy(place + head * cache.strides[1], row + head * rows.strides[1],
                rows.shape[2] * sizeof(T));
  }
}

void check_pair(const char* argument, const Tensor& rows, const char* cache_argument,
                const Tensor& cache, const Tensor& k) {
  check_shape("kv_write", argument, rows, {k.shape[0], k.shape[1], k.shape[2]});
  check_dtype("kv_write", argument, rows, k.dtype);
  check_rows("kv_write", argument, rows);
  check_shape("kv_write", cache_argument, cache, {-1, k.shape[1], -1, k.shape[2]});
  check_dtype("kv_write", cache_argument, cache, k.dtype);
  check_rows("kv_write", cache_argument, cache);
}

}  // namespace

void kv_write(const Tensor& k, const Tensor& v, const Tensor& k_cache, const Tensor& v_cache,
              const Tensor& slot_mapping) {
  check_float("kv_write", "k", k);
  check_shape("kv_write", "k", k, {-1, -1, -1});
  check_pair("k", k, "k_cache", k_cache, k);
  check_pair("v", v, "v_cache", v_cache, k);
  check_shape("kv_write", "slot_mapping", slot_mapping, {k.shape[0]});
  check_dtype("kv_write", "slot_mapping", slot_mapping, DType::kInt32);
  check_contiguous("kv_write", "slot_mapping", slot_mapping);
  dispatch(k, [&](auto type) {
    using T = decltype(type);
    for (int64_t t = 0; t < k.shape[0]; ++t) {
      const int64_t slot = slot_mapping.as<int32_t>()[t];
      if (slot < 0) continue;
      write_token<T>(k_cache, k, t, slot);
      write_token<T>(v_cache, v, t, slot);
    }
  });
}

}  // namespace ft::cpu::FT_ISA
