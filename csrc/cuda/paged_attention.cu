// SPDX-License-Identifier: BSD-3-Clause
// paged_attention and decode_attention: checks, and which kernel takes what. Sequences with one
// query and those with several go to a kernel each, in one call.
#include <algorithm>
#include <climits>

#include "cuda/attention/launchers.h"
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"

namespace ft::cuda {
namespace {

// Measured with 64, 80 and 128 dims and 1, 8, 64 and 256 sequences: with smaller heads and 64
// sequences the kernel that adds keys takes longer than two.
constexpr int kAddingHeadDim = 128, kAddingSequences = 16;

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

void check_caches(const char* op, const Tensor& q, const Tensor& k_cache, const Tensor& v_cache) {
  const int64_t head_dim = q.shape[2];
  check_floats(op, "k_cache", k_cache, q.dtype, {-1, -1, -1, head_dim});
  check_floats(op, "v_cache", v_cache, q.dtype,
               {k_cache.shape[0], k_cache.shape[1], k_cache.shape[2], head_dim});
  check_that(op, "v_cache", std::equal(k_cache.strides, k_cache.strides + 3, v_cache.strides),
             "has other strides than k_cache");
  check_that(op, "k_cache", k_cache.shape[1] > 0 && k_cache.shape[2] > 0, "is empty");
  check_that(op, "q", q.shape[1] % k_cache.shape[1] == 0,
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

// The arguments that both ops have.
struct Call {
  const char* op;
  const Tensor &out, &q, &k_cache, &v_cache, &block_tables, &seq_lens, &cu_seqlens_q, &work,
      &workspace;
  double scale;
  int64_t window;
  double soft_cap;
  const std::optional<Tensor>&alibi_slopes, &relative_bias;

  bool is_empty() const { return q.shape[0] == 0 || q.shape[1] == 0 || seq_lens.shape[0] == 0; }
  bool fits_tensor_cores() const {
    return cuda::fits_tensor_cores({out, q, k_cache, v_cache}) &&
           reinterpret_cast<uintptr_t>(workspace.data) % 16 == 0;
  }
};

void check_call(const Call& call) {
  const char* op = call.op;
  check_float(op, "q", call.q);
  check_floats(op, "q", call.q, call.q.dtype, {-1, -1, -1});
  check_floats(op, "out", call.out, call.q.dtype,
               {call.q.shape[0], call.q.shape[1], call.q.shape[2]});
  check_contiguous(op, "out", call.out);
  check_caches(op, call.q, call.k_cache, call.v_cache);
  check_that(op, "q", call.q.shape[2] <= kMaxHeadDim, "has heads of more than 256 dimensions");
  check_integers(op, "seq_lens", call.seq_lens, {-1});
  check_contiguous(op, "seq_lens", call.seq_lens);
  const int64_t sequences = call.seq_lens.shape[0];
  check_integers(op, "block_tables", call.block_tables, {sequences, -1});
  check_rows(op, "block_tables", call.block_tables);
  check_integers(op, "cu_seqlens_q", call.cu_seqlens_q, {sequences + 1});
  check_contiguous(op, "cu_seqlens_q", call.cu_seqlens_q);
  check_integers(op, "work", call.work, {2, sequences + 1});
  check_contiguous(op, "work", call.work);
  check_floats(op, "workspace", call.workspace, DType::kFloat32, {-1});
  check_that(op, "scale", call.scale > 0.0, "is not positive");
  if (call.alibi_slopes)
    check_floats(op, "alibi_slopes", *call.alibi_slopes, DType::kFloat32, {call.q.shape[1]});
  check_relative_bias(op, call.relative_bias, call.q.shape[1]);
  if (call.relative_bias) {
    check_on_gpu(op, "relative_bias", *call.relative_bias);
    check_that(op, "relative_bias", !call.alibi_slopes, "is given beside alibi_slopes");
  }
}

template <typename T>
Attention<T> argument(const Call& call) {
  Attention<T> attention{};
  attention.out = call.out.as<T>();
  attention.q = call.q.as<T>();
  attention.k_cache = call.k_cache.as<T>();
  attention.v_cache = call.v_cache.as<T>();
  attention.block_tables = call.block_tables.as<int32_t>();
  attention.seq_lens = call.seq_lens.as<int32_t>();
  attention.cu_seqlens_q = call.cu_seqlens_q.as<int32_t>();
  attention.work = call.work.as<int32_t>();
  attention.alibi_slopes = call.alibi_slopes ? call.alibi_slopes->as<float>() : nullptr;
  attention.relative_bias = call.relative_bias ? call.relative_bias->as<float>() : nullptr;
  attention.relative_reach =
      call.relative_bias ? static_cast<int>(call.relative_bias->shape[1]) - 1 : 0;
  attention.q_token_stride = call.q.strides[0];
  attention.q_head_stride = call.q.strides[1];
  attention.page_stride = call.k_cache.strides[0];
  attention.kv_head_stride = call.k_cache.strides[1];
  attention.key_stride = call.k_cache.strides[2];
  attention.table_stride = call.block_tables.strides[0];
  attention.num_tokens = static_cast<int>(call.q.shape[0]);
  attention.num_sequences = static_cast<int>(call.seq_lens.shape[0]);
  attention.num_heads = static_cast<int>(call.q.shape[1]);
  attention.num_pages = static_cast<int>(call.k_cache.shape[0]);
  attention.num_kv_heads = static_cast<int>(call.k_cache.shape[1]);
  attention.head_dim = static_cast<int>(call.q.shape[2]);
  attention.block_size = static_cast<int>(call.k_cache.shape[2]);
  attention.window =
      static_cast<int>(std::min<int64_t>(std::max<int64_t>(call.window, 0), INT_MAX));
  attention.scale = static_cast<float>(call.scale);
  attention.soft_cap = static_cast<float>(call.soft_cap);
  set_workspace(attention, call.workspace);
  return attention;
}

}  // namespace

void paged_attention(const Tensor& out, const Tensor& q, const Tensor& k_cache,
                     const Tensor& v_cache, const Tensor& block_tables, const Tensor& seq_lens,
                     const Tensor& cu_seqlens_q, const Tensor& work, const Tensor& workspace,
                     int64_t max_seqlen_q, int64_t max_seqlen_k, double scale, int64_t window,
                     double soft_cap, const std::optional<Tensor>& alibi_slopes,
                     const std::optional<Tensor>& relative_bias, int64_t stream) {
  const Call call{"paged_attention", out,  q,         k_cache, v_cache, block_tables, seq_lens,
                  cu_seqlens_q,      work, workspace, scale,   window,  soft_cap,     alibi_slopes,
                  relative_bias};
  check_call(call);
  if (call.is_empty()) return;
  dispatch(q, [&](auto type) {
    using T = decltype(type);
    const auto attention = argument<T>(call);
    if constexpr (sizeof(T) == 2) {
      if (call.fits_tensor_cores()) {
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

void decode_attention(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& positions, const std::optional<Tensor>& cos_sin,
                      bool interleaved, const Tensor& k_cache, const Tensor& v_cache,
                      const Tensor& slot_mapping, const Tensor& block_tables,
                      const Tensor& seq_lens, const Tensor& cu_seqlens_q, const Tensor& work,
                      const Tensor& workspace, int64_t max_seqlen_k, double scale, int64_t window,
                      double soft_cap, const std::optional<Tensor>& alibi_slopes,
                      const std::optional<Tensor>& relative_bias, int64_t stream) {
  const Call call{"decode_attention", out,  q,         k_cache, v_cache, block_tables, seq_lens,
                  cu_seqlens_q,       work, workspace, scale,   window,  soft_cap,     alibi_slopes,
                  relative_bias};
  if (cos_sin) check_rope(call.op, q, k, positions, *cos_sin);
  check_cache_write(call.op, k, v, k_cache, v_cache, slot_mapping);
  check_call(call);
  check_heads(call.op, "k", k, q);
  const bool turns_words =
      !cos_sin || (cos_sin->shape[1] % 4 == 0 && has_packs<float>(*cos_sin, 2));
  const bool is_fast = q.shape[2] >= kAddingHeadDim || seq_lens.shape[0] <= kAddingSequences;
  if (!is_fast || !turns_words || !call.fits_tensor_cores() || !fits_tensor_cores({k, v})) {
    if (cos_sin) {
      rope_kv_write(q, k, v, positions, *cos_sin, interleaved, k_cache, v_cache, slot_mapping,
                    stream);
    } else {
      kv_write(k, v, k_cache, v_cache, slot_mapping, stream);
    }
    return paged_attention(out, q, k_cache, v_cache, block_tables, seq_lens, cu_seqlens_q, work,
                           workspace, 1, max_seqlen_k, scale, window, soft_cap, alibi_slopes,
                           relative_bias, stream);
  }
  if (call.is_empty()) return;
  dispatch_half(q, [&](auto type) {
    using T = decltype(type);
    DecodeAttention<T> attention{argument<T>(call)};
    attention.k = Heads<T>(k);
    attention.newest = {PagedCache<T>(k_cache), PagedCache<T>(v_cache), Heads<T>(v),
                        slot_mapping.as<int32_t>()};
    if (cos_sin) {
      attention.angles = {positions.as<int32_t>(), cos_sin->as<float>(),
                          static_cast<int>(cos_sin->shape[1] / 2)};
    }
    attention.interleaved = interleaved;
    launch_decode(attention, static_cast<int>(max_seqlen_k), stream);
  });
}

}  // namespace ft::cuda
