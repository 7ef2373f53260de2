// SPDX-License-Identifier: BSD-3-Clause
// From tensors to the arguments of attention over the paged cache, for all ops that have it.
#pragma once

#include <algorithm>
#include <climits>
#include <optional>

#include "cuda/attention/attention.cuh"
#include "cuda/launch.h"

namespace ft::cuda {

// The step's plan, of `sequences` sequences.
void check_plan(const char* op, const Tensor& block_tables, const Tensor& seq_lens,
                const Tensor& cu_seqlens_q, const Tensor& work, const Tensor& workspace);
// Caches of `dtype` with heads of `head_dim` dimensions.
void check_caches(const char* op, const Tensor& k_cache, const Tensor& v_cache, DType dtype,
                  int64_t head_dim);

// For heads of known number and size.
template <typename T>
void set_workspace(Attention<T>& attention, const Tensor& workspace) {
  const int64_t head_dim = attention.head_dim;
  const int64_t heads = workspace.shape[0] / (head_dim + 3);  // of all chunks
  attention.num_partials = static_cast<int>(heads / attention.num_heads);
  const int64_t rows = static_cast<int64_t>(attention.num_partials) * attention.num_heads;
  attention.partial_sums = workspace.as<float>();
  attention.partial_totals = reinterpret_cast<float2*>(attention.partial_sums + rows * head_dim);
  attention.counters = reinterpret_cast<unsigned*>(attention.partial_totals + rows);
}

template <typename T>
void set_plan(Attention<T>& attention, const Tensor& block_tables, const Tensor& seq_lens,
              const Tensor& cu_seqlens_q, const Tensor& work) {
  attention.block_tables = block_tables.as<int32_t>();
  attention.table_stride = block_tables.strides[0];
  attention.seq_lens = seq_lens.as<int32_t>();
  attention.num_sequences = static_cast<int>(seq_lens.shape[0]);
  attention.cu_seqlens_q = cu_seqlens_q.as<int32_t>();
  attention.work = work.as<int32_t>();
}

template <typename T>
void set_caches(Attention<T>& attention, const Tensor& k_cache, const Tensor& v_cache) {
  attention.k_cache = k_cache.as<T>();
  attention.v_cache = v_cache.as<T>();
  attention.page_stride = k_cache.strides[0];
  attention.kv_head_stride = k_cache.strides[1];
  attention.key_stride = k_cache.strides[2];
  attention.num_pages = static_cast<int>(k_cache.shape[0]);
  attention.num_kv_heads = static_cast<int>(k_cache.shape[1]);
  attention.block_size = static_cast<int>(k_cache.shape[2]);
}

template <typename T>
void set_scores(Attention<T>& attention, double scale, int64_t window, double soft_cap,
                const std::optional<Tensor>& alibi_slopes) {
  attention.scale = static_cast<float>(scale);
  attention.window = static_cast<int>(std::min<int64_t>(std::max<int64_t>(window, 0), INT_MAX));
  attention.soft_cap = static_cast<float>(soft_cap);
  attention.alibi_slopes = alibi_slopes ? alibi_slopes->as<float>() : nullptr;
}

}  // namespace ft::cuda
