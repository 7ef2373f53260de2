// SPDX-License-Identifier: BSD-3-Clause
// paged_attention: checks, and which kernel takes what. Sequences with one query and those with
// several go to a kernel each, in one call.
#include <algorithm>

#include "cuda/attention/arguments.h"
#include "cuda/attention/launchers.h"
#include "cuda/launch.h"
#include "cuda/launchers.h"

namespace ft::cuda {
namespace {

constexpr const char* kOp = "paged_attention";

void check_integers(const char* op, const char* argument, const Tensor& tensor,
                    std::initializer_list<int64_t> shape) {
  check_on_gpu(op, argument, tensor);
  check_shape(op, argument, tensor, shape);
  check_dtype(op, argument, tensor, DType::kInt32);
}

void check_floats(const char* op, const char* argument, const Tensor& tensor, DType dtype,
                  std::initializer_list<int64_t> shape) {
  check_on_gpu(op, argument, tensor);
  check_shape(op, argument, tensor, shape);
  check_dtype(op, argument, tensor, dtype);
  check_rows(op, argument, tensor);
}

}  // namespace

void check_caches(const char* op, const Tensor& k_cache, const Tensor& v_cache, DType dtype,
                  int64_t head_dim) {
  check_floats(op, "k_cache", k_cache, dtype, {-1, -1, -1, head_dim});
  check_floats(op, "v_cache", v_cache, dtype,
               {k_cache.shape[0], k_cache.shape[1], k_cache.shape[2], head_dim});
  check_that(op, "v_cache", std::equal(k_cache.strides, k_cache.strides + 3, v_cache.strides),
             "has other strides than k_cache");
  check_that(op, "k_cache", k_cache.shape[1] > 0 && k_cache.shape[2] > 0, "is empty");
}

void check_plan(const char* op, const Tensor& block_tables, const Tensor& seq_lens,
                const Tensor& cu_seqlens_q, const Tensor& work, const Tensor& workspace) {
  check_integers(op, "seq_lens", seq_lens, {-1});
  check_contiguous(op, "seq_lens", seq_lens);
  const int64_t sequences = seq_lens.shape[0];
  check_integers(op, "block_tables", block_tables, {sequences, -1});
  check_rows(op, "block_tables", block_tables);
  check_integers(op, "cu_seqlens_q", cu_seqlens_q, {sequences + 1});
  check_contiguous(op, "cu_seqlens_q", cu_seqlens_q);
  check_integers(op, "work", work, {2, sequences + 1});
  check_contiguous(op, "work", work);
  check_floats(op, "workspace", workspace, DType::kFloat32, {-1});
}

void paged_attention(const Tensor& out, const Tensor& q, const Tensor& k_cache,
                     const Tensor& v_cache, const Tensor& block_tables, const Tensor& seq_lens,
                     const Tensor& cu_seqlens_q, const Tensor& work, const Tensor& workspace,
                     int64_t max_seqlen_q, int64_t max_seqlen_k, double scale, int64_t window,
                     double soft_cap, const std::optional<Tensor>& alibi_slopes,
                     const std::optional<Tensor>& relative_bias, int64_t stream) {
  check_float(kOp, "q", q);
  check_floats(kOp, "q", q, q.dtype, {-1, -1, -1});
  check_floats(kOp, "out", out, q.dtype, {q.shape[0], q.shape[1], q.shape[2]});
  check_contiguous(kOp, "out", out);
  check_caches(kOp, k_cache, v_cache, q.dtype, q.shape[2]);
  check_that(kOp, "q", q.shape[1] % k_cache.shape[1] == 0,
             "has a number of heads that is no multiple of the cache's");
  check_that(kOp, "q", q.shape[2] <= kMaxHeadDim, "has heads of more than 256 dimensions");
  check_plan(kOp, block_tables, seq_lens, cu_seqlens_q, work, workspace);
  check_that(kOp, "scale", scale > 0.0, "is not positive");
  if (alibi_slopes) check_floats(kOp, "alibi_slopes", *alibi_slopes, DType::kFloat32, {q.shape[1]});
  check_relative_bias(kOp, relative_bias, q.shape[1]);
  if (relative_bias) {
    check_on_gpu(kOp, "relative_bias", *relative_bias);
    check_that(kOp, "relative_bias", !alibi_slopes, "is given beside alibi_slopes");
  }
  if (q.shape[0] == 0 || q.shape[1] == 0 || seq_lens.shape[0] == 0) return;

  dispatch(q, [&](auto type) {
    using T = decltype(type);
    Attention<T> attention{};
    attention.out = out.as<T>();
    attention.q = q.as<T>();
    attention.relative_bias = relative_bias ? relative_bias->as<float>() : nullptr;
    attention.relative_reach = relative_bias ? static_cast<int>(relative_bias->shape[1]) - 1 : 0;
    attention.q_token_stride = q.strides[0];
    attention.q_head_stride = q.strides[1];
    attention.num_tokens = static_cast<int>(q.shape[0]);
    attention.num_heads = static_cast<int>(q.shape[1]);
    attention.head_dim = static_cast<int>(q.shape[2]);
    set_caches(attention, k_cache, v_cache);
    set_plan(attention, block_tables, seq_lens, cu_seqlens_q, work);
    set_scores(attention, scale, window, soft_cap, alibi_slopes);
    set_workspace(attention, workspace);
    if constexpr (sizeof(T) == 2) {
      if (fits_tensor_cores({out, q, k_cache, v_cache}) &&
          reinterpret_cast<uintptr_t>(workspace.data) % 16 == 0) {
        if (max_seqlen_q > 1 && relative_bias) launch_plain(attention, true, stream);
        if (max_seqlen_q > 1 && !relative_bias && !launch_prefill_sm90(attention, stream)) {
          launch_prefill(attention, stream);
        }
        launch_decode(attention, static_cast<int>(max_seqlen_k), stream);
        return;
      }
    }
    launch_plain(attention, false, stream);
  });
}

}  // namespace ft::cuda
