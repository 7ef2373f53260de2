// SPDX-License-Identifier: BSD-3-Clause
// What the attention kernels share: their argument, where a key lies, what a score goes through.
// Kernels for several queries take any argument with the members of Attention that they use.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/attention_checks.h"
#include "device/exp2.cuh"

namespace ft::cuda {

constexpr int kChunkKeys = 256;    // CHUNK_KEYS of ops/attention.py
constexpr int kTileQueries = 128;  // TILE_QUERIES of ops/attention.py
constexpr float kLog2e = 1.4426950408889634f;

// The queries of any attention and its results; sizes and strides in elements, named as in the ops.
template <typename T>
struct Queries {
  using Element = T;

  T* out;
  const T* q;
  const int32_t* cu_seqlens_q;
  int64_t q_token_stride, q_head_stride;
  int num_tokens, num_sequences, num_heads, head_dim;
  float scale;

  __device__ const T* query(int token, int head) const {
    return q + token * q_token_stride + head * q_head_stride;
  }
  __device__ T* result(int token, int head) const {
    return out + (static_cast<int64_t>(token) * num_heads + head) * head_dim;
  }
  __device__ int num_queries(int sequence) const {
    return cu_seqlens_q[sequence + 1] - cu_seqlens_q[sequence];
  }
};

// One call of paged_attention.
template <typename T>
struct Attention : Queries<T> {
  static constexpr const char* kOp = "paged_attention";
  static constexpr bool kIsPaged = true;

  const T* k_cache;
  const T* v_cache;
  const int32_t* block_tables;
  const int32_t* seq_lens;
  const int32_t* work;
  const float* alibi_slopes;   // or null
  const float* relative_bias;  // [N, relative_reach + 1], or null
  int relative_reach;
  int64_t page_stride, kv_head_stride, key_stride;  // of both caches
  int64_t table_stride;
  int num_kv_heads, num_pages, block_size;
  int window;  // 0: none
  float soft_cap;

  // The workspace, for `num_partials` chunks: sums [chunk, N, D], then (best score, total weight)
  // [chunk, N], then counters of the chunks that are done, which are zero between kernels.
  float* partial_sums;
  float2* partial_totals;
  unsigned* counters;
  int num_partials;

  __device__ int num_keys(int sequence) const { return seq_lens[sequence]; }
  __device__ int kv_head(int head) const { return head / (this->num_heads / num_kv_heads); }
  __device__ const T* keys(int kv_head) const { return k_cache + kv_head * kv_head_stride; }
  __device__ const T* values(int kv_head) const { return v_cache + kv_head * kv_head_stride; }
  __device__ int64_t key_offset(int page, int slot) const {
    return page * page_stride + slot * key_stride;
  }
  __device__ int64_t offset_of_key(int sequence, int key) const {
    const int page = key / block_size;
    return key_offset(block_tables[sequence * table_stride + page], key - page * block_size);
  }

  // A query at `position` sees the keys from the oldest one to the newest one.
  __device__ int oldest_visible(int position) const {
    return window > 0 ? max(0, position - window + 1) : 0;
  }
  __device__ int newest_visible(int position, int num_keys) const { return position; }

  __device__ int relative_columns() const { return relative_reach + 1; }
  __device__ int min_distance() const { return 0; }  // of a relative bias
  __device__ float slope(int head) const {
    return alibi_slopes == nullptr ? 0.0f : alibi_slopes[head];
  }
};

// From a dot product to a logit whose weight is 2^(exponent_factor * logit). Soft cap and slope are
// the same for all threads, so that to test for them costs nothing.
class Score {
 public:
  template <typename A>
  __device__ explicit Score(const A& attention)
      : scale_(attention.scale),
        soft_cap_(attention.soft_cap),
        cap_factor_(2.0f * kLog2e / attention.soft_cap),
        is_plain_(attention.soft_cap == 0.0f && attention.alibi_slopes == nullptr) {}

  // What the logits of a head need beside the dot product.
  template <typename A>
  __device__ static float bias_of(const A& attention, int head) {
    return attention.slope(head);
  }

  // The dot product itself is the logit.
  __device__ bool is_plain() const { return is_plain_; }
  __device__ float exponent_factor() const { return is_plain_ ? scale_ * kLog2e : kLog2e; }

  __device__ float operator()(float dot, float slope, int distance) const {
    if (is_plain_) return dot;
    const float logit = is_capped() ? capped(dot) : scaled(dot);
    return biased(logit, slope, static_cast<float>(distance));
  }

  // The same in steps, for code that tests once for many scores.
  __device__ bool is_capped() const { return soft_cap_ != 0.0f; }
  __device__ float scaled(float dot) const { return dot * scale_; }
  __device__ float capped(float dot) const {  // tanh(x) = 1 - 2 / (1 + e^2x), within 2e-7
    const float power = device::exp2_fast(cap_factor_ * scaled(dot));
    return soft_cap_ * (1.0f - __fdividef(2.0f, 1.0f + power));
  }
  __device__ static float biased(float logit, float slope, float distance) {
    return __fmaf_rn(-slope, distance, logit);
  }

 private:
  float scale_, soft_cap_, cap_factor_;
  bool is_plain_;
};

// The same with a table by distance instead of a slope. A type of its own: the address would cost
// the kernels that need none registers.
class RelativeScore : public Score {
 public:
  template <typename A>
  __device__ explicit RelativeScore(const A& attention)
      : Score(attention),
        table_(attention.relative_bias),
        reach_(attention.relative_reach),
        min_distance_(attention.min_distance()) {}

  // The bits of where the head's row starts.
  template <typename A>
  __device__ static float bias_of(const A& attention, int head) {
    return __int_as_float(head * attention.relative_columns());
  }

  __device__ bool is_plain() const { return false; }
  __device__ float exponent_factor() const { return kLog2e; }

  // Of a key that is hidden the distance may lie outside of the table, too.
  __device__ float operator()(float dot, float row, int distance) const {
    const int column = reach_ - min(max(distance, min_distance_), reach_);
    return __fadd_rn(is_capped() ? capped(dot) : scaled(dot), table_[__float_as_int(row) + column]);
  }

 private:
  const float* table_;
  int reach_, min_distance_;
};

// Scores of a head's queries by the distance of their keys, as a function of dot product and both
// positions.
template <typename A, typename S>
__device__ auto logit_function(const A& attention, const S& score, int /*sequence*/, int head) {
  return [&score, bias = S::bias_of(attention, head)](float dot, int position, int key) {
    return score(dot, bias, position - key);
  };
}

}  // namespace ft::cuda
