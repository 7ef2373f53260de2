// SPDX-License-Identifier: BSD-3-Clause
// paged_attention: checks, and which kernel takes what. Sequences with one query and those with
// several go to a kernel each, in one call.
#include <algorithm>
#include <climits>

#include "cuda/attention/launchers.h"
#include "cuda/launch.h"
#include "cuda/launchers.h"

namespace ft::cuda {
namespace {

constexpr const char* kOp = "paged_attention";

void check_integers(const char* argument, const Tensor& tensor,
                    std::initializer_list<int64_t> shape) {
  check_on_gpu(kOp, argument, tensor);
  check_shape(kOp, argument, tensor, shape);
  check_dtype(kOp, argument, tensor, DType::kInt32);
}

void check_floats(const char* argument, const Tensor& tensor, DType dtype,
                  std::initializer_list<int64_t> shape) {
  check_on_gpu(kOp, argument, tensor);
  check_shape(kOp, argument, tensor, shape);
  check_dtype(kOp, argument, tensor, dtype);
  check_rows(kOp, argument, tensor);
}

void check_caches(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache) {
  const int64_t head_dim = q.shape[2];
  check_floats("k_cache", k_cache, q.dtype, {-1, -1, -1, head_dim});
  check_floats("v_cache", v_cache, q.dtype,
               {k_cache.shape[0], k_cache.shape[1], k_cache.shape[2], head_dim});
  check_that(kOp, "v_cache", std::equal(k_cache.strides, k_cache.strides + 3, v_cache.strides),
             "has other strides than k_cache");
  check_that(kOp, "k_cache", k_cache.shape[1] > 0 && k_cache.shape[2] > 0, "is empty");
  check_that(kOp, "q", q.shape[1] % k_cache.shape[1] == 0,
             "has a number of heads that is no multiple of the cache's");
}

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

}  // namespace

void paged_attention(const Tensor& out, const Tensor& q, const Tensor& k_cache,
                     const Tensor& v_cache, const Tensor& block_tables, const Tensor& seq_lens,
                     const Tensor& cu_seqlens_q, const Tensor& work, const Tensor& workspace,
                     int64_t max_seqlen_q, int64_t max_seqlen_k, double scale, int64_t window,
                     double soft_cap, const std::optional<Tensor>& alibi_slopes,
                     const std::optional<Tensor>& relative_bias, int64_t stream) {
  check_float(kOp, "q", q);
  check_floats("q", q, q.dtype, {-1, -1, -1});
  check_floats("out", out, q.dtype, {q.shape[0], q.shape[1], q.shape[2]});
  check_contiguous(kOp, "out", out);
  check_caches(q, k_cache, v_cache);
  check_that(kOp, "q", q.shape[2] <= kMaxHeadDim, "has heads of more than 256 dimensions");
  check_integers("seq_lens", seq_lens, {-1});
  check_contiguous(kOp, "seq_lens", seq_lens);
  const int64_t sequences = seq_lens.shape[0];
  check_integers("block_tables", block_tables, {sequences, -1});
  check_rows(kOp, "block_tables", block_tables);
  check_integers("cu_seqlens_q", cu_seqlens_q, {sequences + 1});
  check_contiguous(kOp, "cu_seqlens_q", cu_seqlens_q);
  check_integers("work", work, {2, sequences + 1});
  check_contiguous(kOp, "work", work);
  check_floats("workspace", workspace, DType::kFloat32, {-1});
  check_that(kOp, "scale", scale > 0.0, "is not positive");
  if (alibi_slopes) check_floats("alibi_slopes", *alibi_slopes, DType::kFloat32, {q.shape[1]});
  check_relative_bias(kOp, relative_bias, q.shape[1]);
  if (relative_bias) {
    check_on_gpu(kOp, "relative_bias", *relative_bias);
    check_that(kOp, "relative_bias", !alibi_slopes, "is given beside alibi_slopes");
  }
  if (q.shape[0] == 0 || q.shape[1] == 0 || sequences == 0) return;

  dispatch(q, [&](auto type) {
    using T = decltype(type);
    Attention<T> attention{};
    attention.out = out.as<T>();
    attention.q = q.as<T>();
    attention.k_cache = k_cache.as<T>();
    attention.v_cache = v_cache.as<T>();
    attention.block_tables = block_tables.as<int32_t>();
    attention.seq_lens = seq_lens.as<int32_t>();
    attention.cu_seqlens_q = cu_seqlens_q.as<int32_t>();
    attention.work = work.as<int32_t>();
    attention.alibi_slopes = alibi_slopes ? alibi_slopes->as<float>() : nullptr;
    attention.relative_bias = relative_bias ? relative_bias->as<float>() : nullptr;
    attention.relative_reach = relative_bias ? static_cast<int>(relative_bias->shape[1]) - 1 : 0;
    attention.q_token_stride = q.strides[0];
    attention.q_head_stride = q.strides[1];
    attention.page_stride = k_cache.strides[0];
    attention.kv_head_stride = k_cache.strides[1];
    attention.key_stride = k_cache.strides[2];
    attention.table_stride = block_tables.strides[0];
    attention.num_tokens = static_cast<int>(q.shape[0]);
    attention.num_sequences = static_cast<int>(sequences);
    attention.num_heads = static_cast<int>(q.shape[1]);
    attention.num_pages = static_cast<int>(k_cache.shape[0]);
    attention.num_kv_heads = static_cast<int>(k_cache.shape[1]);
    attention.head_dim = static_cast<int>(q.shape[2]);
    attention.block_size = static_cast<int>(k_cache.shape[2]);
    attention.window = static_cast<int>(std::min<int64_t>(std::max<int64_t>(window, 0), INT_MAX));
    attention.scale = static_cast<float>(scale);
    attention.soft_cap = static_cast<float>(soft_cap);
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
