// SPDX-License-Identifier: BSD-3-Clause
#include "core/attention_checks.h"

namespace ft {
namespace {

void check_integers(const char* op, const char* argument, const Tensor& tensor, int64_t size) {
  check_shape(op, argument, tensor, {size});
  check_dtype(op, argument, tensor, DType::kInt32);
  check_contiguous(op, argument, tensor);
}

// q, k, v and out [tokens, heads, head size] of one type, cu_seqlens [sequences + 1] int32.
void check_packed(const char* op, const Tensor& out, const Tensor& q, const Tensor& k,
                  const Tensor& v, const Tensor& cu_seqlens) {
  check_float(op, "q", q);
  check_shape(op, "q", q, {-1, -1, -1});
  check_rows(op, "q", q);
  check_that(op, "q", q.shape[2] <= kMaxHeadDim, "has heads of more than 256 dimensions");
  const auto check_heads = [&](const char* argument, const Tensor& tensor) {
    check_shape(op, argument, tensor, {q.shape[0], q.shape[1], q.shape[2]});
    check_dtype(op, argument, tensor, q.dtype);
    check_rows(op, argument, tensor);
  };
  check_heads("k", k);
  check_heads("v", v);
  check_heads("out", out);
  check_integers(op, "cu_seqlens", cu_seqlens, -1);
  check_that(op, "cu_seqlens", cu_seqlens.shape[0] > 0, "is empty");
}

}  // namespace

void check_relative_bias(const char* op, const std::optional<Tensor>& bias, int64_t heads) {
  if (!bias) return;
  check_shape(op, "relative_bias", *bias, {heads, -1});
  check_dtype(op, "relative_bias", *bias, DType::kFloat32);
  check_contiguous(op, "relative_bias", *bias);
  check_that(op, "relative_bias", bias->shape[1] > 0, "has no column");
}

void check_encoder_attention(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& cu_seqlens, const std::optional<Tensor>& relative_bias) {
  const char* op = "encoder_attention";
  check_packed(op, out, q, k, v, cu_seqlens);
  check_relative_bias(op, relative_bias, q.shape[1]);
  const int64_t columns = relative_bias ? relative_bias->shape[1] : 1;
  check_that(op, "relative_bias", columns % 2 == 1, "has an even number of columns");
}

void check_disentangled_attention(const Tensor& out, const Tensor& q, const Tensor& k,
                                  const Tensor& v, const std::optional<Tensor>& content_to_position,
                                  const std::optional<Tensor>& position_to_content,
                                  const Tensor& buckets, const Tensor& cu_seqlens,
                                  int64_t max_seqlen) {
  const char* op = "disentangled_attention";
  check_packed(op, out, q, k, v, cu_seqlens);
  const auto check_positions = [&](const char* argument, const std::optional<Tensor>& scores) {
    if (!scores) return;
    check_shape(op, argument, *scores, {q.shape[1], q.shape[0], -1});
    check_dtype(op, argument, *scores, q.dtype);
    check_rows(op, argument, *scores);
  };
  check_positions("content_to_position", content_to_position);
  check_positions("position_to_content", position_to_content);
  check_integers(op, "buckets", buckets, 2 * max_seqlen - 1);
}

}  // namespace ft
