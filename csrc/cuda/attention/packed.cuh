// SPDX-License-Identifier: BSD-3-Clause
// Bidirectional attention of packed sequences: arguments, and what scores go through.
#pragma once

#include "cuda/attention/attention.cuh"
#include "device/vec.cuh"

namespace ft::cuda {

// k and v [T, N, D] have the same strides.
template <typename T>
struct PackedAttention : Queries<T> {
  static constexpr bool kIsPaged = false;

  const T* k;
  const T* v;
  int64_t key_stride, key_head_stride;

  __device__ int num_keys(int sequence) const { return this->num_queries(sequence); }
  __device__ int kv_head(int head) const { return head; }
  __device__ const T* keys(int head) const { return k + head * key_head_stride; }
  __device__ const T* values(int head) const { return v + head * key_head_stride; }
  __device__ int64_t offset_of_key(int sequence, int key) const {
    return (this->cu_seqlens_q[sequence] + key) * key_stride;
  }
  __device__ int oldest_visible(int /*position*/) const { return 0; }
  __device__ int newest_visible(int /*position*/, int num_keys) const { return num_keys - 1; }
};

// One call of encoder_attention.
template <typename T>
struct EncoderAttention : PackedAttention<T> {
  static constexpr const char* kOp = "encoder_attention";
  static constexpr float soft_cap = 0.0f;  // what Score asks for, known when it is compiled
  static constexpr const float* alibi_slopes = nullptr;

  const float* relative_bias;  // [N, 2 * relative_reach + 1], or null
  int relative_reach;

  __device__ float slope(int /*head*/) const { return 0.0f; }
  __device__ int relative_columns() const { return 2 * relative_reach + 1; }
  __device__ int min_distance() const { return -relative_reach; }
};

// One call of disentangled_attention.
template <typename T>
struct DisentangledAttention : PackedAttention<T> {
  static constexpr const char* kOp = "disentangled_attention";

  // [T, R] of a head, rows of tokens side by side but for their stride; or null.
  struct Positions {
    const T* data;
    int64_t head_stride, token_stride;

    __device__ const T* rows(int head, int token) const {
      return data == nullptr ? nullptr : data + head * head_stride + token * token_stride;
    }
  };
  Positions content_to_position, position_to_content;
  const int32_t* buckets;  // of distance 0
};

// Scores with parts for positions, which are scaled like the dot product.
class DisentangledScore {
 public:
  template <typename A>
  __device__ explicit DisentangledScore(const A& attention)
      : exponent_factor_(attention.scale * kLog2e) {}

  __device__ bool is_plain() const { return false; }
  __device__ float exponent_factor() const { return exponent_factor_; }

 private:
  float exponent_factor_;
};

template <typename T>
__device__ auto logit_function(const DisentangledAttention<T>& a, const DisentangledScore&,
                               int sequence, int head) {
  const int start = a.cu_seqlens_q[sequence];
  return [&a, last = a.num_keys(sequence) - 1, by_query = a.content_to_position.rows(head, start),
          by_key = a.position_to_content.rows(head, start)](float dot, int position, int key) {
    // What lies behind the sequence's end is hidden or left out, but must not be read.
    const int row = min(position, last), column = min(key, last), bucket = a.buckets[row - column];
    if (by_query != nullptr) {
      const T* scores = by_query + row * a.content_to_position.token_stride;
      dot = __fadd_rn(dot, device::to_float(scores[bucket]));
    }
    if (by_key != nullptr) {
      const T* scores = by_key + column * a.position_to_content.token_stride;
      dot = __fadd_rn(dot, device::to_float(scores[bucket]));
    }
    return dot;
  };
}

}  // namespace ft::cuda
