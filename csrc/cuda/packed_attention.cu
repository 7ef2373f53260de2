// SPDX-License-Identifier: BSD-3-Clause
// encoder_attention and disentangled_attention: checks, and the arguments of their kernels.
#include <algorithm>

#include "core/attention_checks.h"
#include "cuda/attention/launchers.h"
#include "cuda/launch.h"
#include "cuda/launchers.h"

namespace ft::cuda {
namespace {

// What is common to both.
void check_on_gpu_alike(const char* op, const Tensor& out, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Tensor& cu_seqlens) {
  check_on_gpu(op, "out", out);
  check_contiguous(op, "out", out);
  check_on_gpu(op, "q", q);
  check_on_gpu(op, "k", k);
  check_on_gpu(op, "v", v);
  check_on_gpu(op, "cu_seqlens", cu_seqlens);
  check_that(op, "v", std::equal(k.strides, k.strides + 2, v.strides), "has other strides than k");
}

void check_given_on_gpu(const char* op, const char* argument, const std::optional<Tensor>& tensor) {
  if (tensor) check_on_gpu(op, argument, *tensor);
}

bool is_empty(const Tensor& q, const Tensor& cu_seqlens) {
  return q.shape[0] == 0 || q.shape[1] == 0 || cu_seqlens.shape[0] == 1;
}

template <typename T>
void set_packed(PackedAttention<T>& attention, const Tensor& out, const Tensor& q, const Tensor& k,
                const Tensor& v, const Tensor& cu_seqlens, double scale) {
  attention.out = out.as<T>();
  attention.q = q.as<T>();
  attention.k = k.as<T>();
  attention.v = v.as<T>();
  attention.cu_seqlens_q = cu_seqlens.as<int32_t>();
  attention.q_token_stride = q.strides[0];
  attention.q_head_stride = q.strides[1];
  attention.key_stride = k.strides[0];
  attention.key_head_stride = k.strides[1];
  attention.num_tokens = static_cast<int>(q.shape[0]);
  attention.num_sequences = static_cast<int>(cu_seqlens.shape[0] - 1);
  attention.num_heads = static_cast<int>(q.shape[1]);
  attention.head_dim = static_cast<int>(q.shape[2]);
  attention.scale = static_cast<float>(scale);
}

bool needs_plain(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v) {
  return q.shape[2] > 128 || !fits_tensor_cores({out, q, k, v});
}

template <typename T>
typename DisentangledAttention<T>::Positions positions(const std::optional<Tensor>& scores) {
  if (!scores) return {};
  return {scores->as<T>(), scores->strides[0], scores->strides[1]};
}

}  // namespace

void encoder_attention(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v,
                       const Tensor& cu_seqlens, int64_t /*max_seqlen*/, double scale,
                       const std::optional<Tensor>& relative_bias, int64_t stream) {
  const char* op = EncoderAttention<float>::kOp;
  check_encoder_attention(out, q, k, v, cu_seqlens, relative_bias);
  check_on_gpu_alike(op, out, q, k, v, cu_seqlens);
  check_given_on_gpu(op, "relative_bias", relative_bias);
  if (is_empty(q, cu_seqlens)) return;
  dispatch(q, [&](auto type) {
    using T = decltype(type);
    EncoderAttention<T> attention{};
    set_packed(attention, out, q, k, v, cu_seqlens, scale);
    attention.relative_bias = relative_bias ? relative_bias->as<float>() : nullptr;
    attention.relative_reach = relative_bias ? static_cast<int>(relative_bias->shape[1] / 2) : 0;
    launch_encoder(attention, needs_plain(out, q, k, v), stream);
  });
}

void disentangled_attention(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v,
                            const std::optional<Tensor>& content_to_position,
                            const std::optional<Tensor>& position_to_content, const Tensor& buckets,
                            const Tensor& cu_seqlens, int64_t max_seqlen, double scale,
                            int64_t stream) {
  const char* op = DisentangledAttention<float>::kOp;
  check_disentangled_attention(out, q, k, v, content_to_position, position_to_content, buckets,
                               cu_seqlens, max_seqlen);
  check_on_gpu_alike(op, out, q, k, v, cu_seqlens);
  check_given_on_gpu(op, "content_to_position", content_to_position);
  check_given_on_gpu(op, "position_to_content", position_to_content);
  check_on_gpu(op, "buckets", buckets);
  if (is_empty(q, cu_seqlens)) return;
  dispatch(q, [&](auto type) {
    using T = decltype(type);
    DisentangledAttention<T> attention{};
    set_packed(attention, out, q, k, v, cu_seqlens, scale);
    attention.content_to_position = positions<T>(content_to_position);
    attention.position_to_content = positions<T>(position_to_content);
    attention.buckets = buckets.as<int32_t>() + max_seqlen - 1;
    launch_disentangled(attention, needs_plain(out, q, k, v), stream);
  });
}

}  // namespace ft::cuda
