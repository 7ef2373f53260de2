// SPDX-License-Identifier: BSD-3-Clause
#include "cuda/decoder_stack.h"

#include <climits>

#include "cuda/attention/arguments.h"
#include "cuda/decoder_stack/attention_memory.cuh"
#include "cuda/decoder_stack/launch.h"
#include "cuda/decoder_stack/plan.h"

namespace ft::cuda {

using namespace stack;

DecoderStack::DecoderStack(int num_heads, int num_kv_heads, int head_dim, int hidden_size)
    : plan_(new Plan(num_heads, num_kv_heads, head_dim, hidden_size)) {}

DecoderStack::~DecoderStack() = default;

void DecoderStack::add_linear(const Tensor& weight, const std::optional<Tensor>& bias,
                              const std::optional<Tensor>& norm_weight,
                              const std::optional<Tensor>& norm_bias, double eps,
                              const std::string& activation, bool is_gated) {
  plan_->add_linear(weight, bias, norm_weight, norm_bias, eps, activation, is_gated);
}

void DecoderStack::add_attention(int layer, bool is_cross,
                                 const std::optional<Tensor>& relative_bias,
                                 const std::optional<Tensor>& cos_sin) {
  plan_->add_attention(layer, is_cross, relative_bias, cos_sin);
}

int DecoderStack::max_tokens() const { return plan_->max_tokens(); }

int64_t DecoderStack::scratch_bytes() const { return plan_->scratch().bytes; }

void DecoderStack::place(const Tensor& scratch) {
  check_that(kOp, "scratch", fits(), "is given for what does not fit");
  check_on_gpu(kOp, "scratch", scratch);
  check_dtype(kOp, "scratch", scratch, DType::kUInt8);
  check_shape(kOp, "scratch", scratch, {scratch_bytes()});
  check_that(kOp, "scratch", reinterpret_cast<uintptr_t>(scratch.data) % 128 == 0,
             "does not start at a multiple of 128 bytes");
  scratch_ = scratch.as<char>();
  plan_->write(scratch_);
}

void DecoderStack::run(const Tensor& out, const Tensor& residual, const Tensor& k_cache,
                       const Tensor& v_cache, int64_t layer_stride,
                       const std::optional<Tensor>& positions, const Tensor& block_tables,
                       const Tensor& seq_lens, const Tensor& cu_seqlens_q, const Tensor& work,
                       const std::optional<Tensor>& cross_block_tables,
                       const std::optional<Tensor>& cross_seq_lens,
                       const std::optional<Tensor>& cross_cu_seqlens_q,
                       const std::optional<Tensor>& cross_work, const Tensor& workspace,
                       double scale, int64_t window, const std::optional<Tensor>& alibi_slopes,
                       int64_t stream) const {
  const Plan& plan = *plan_;
  check_that(kOp, "self", scratch_ != nullptr, "has no scratch; call place before");
  const auto check_stream = [&](const char* name, const Tensor& rows) {
    check_shape(kOp, name, rows, {seq_lens.shape[0], plan.hidden_size});
    check_dtype(kOp, name, rows, plan.dtype());
    check_on_gpu(kOp, name, rows);
    check_contiguous(kOp, name, rows);
    check_aligned(kOp, name, rows);
  };
  check_stream("residual", residual);
  check_stream("out", out);
  const int tokens = static_cast<int>(residual.shape[0]);
  check_that(kOp, "residual", tokens <= plan.max_tokens(), "has more rows than max_tokens");
  check_caches(kOp, k_cache, v_cache, plan.dtype(), plan.head_dim);
  check_that(kOp, "k_cache", k_cache.shape[1] == plan.num_kv_heads, "has other heads");
  check_that(kOp, "k_cache", k_cache.shape[2] % kGroupKeys == 0,
             "has blocks that do not hold multiples of 16 keys");
  check_that(kOp, "k_cache",
             k_cache.strides[2] == plan.head_dim && k_cache.strides[0] % 8 == 0 &&
                 reinterpret_cast<uintptr_t>(k_cache.data) % 16 == 0 &&
                 reinterpret_cast<uintptr_t>(v_cache.data) % 16 == 0,
             "has heads that do not start at multiples of 16 bytes");
  check_that(kOp, "k_cache", k_cache.shape[0] * k_cache.strides[0] / Items::kPack <= UINT_MAX,
             "has more elements of a layer than offsets may count");
  check_that(kOp, "positions", positions.has_value() || plan.cos_sin() == nullptr, "is not given");
  if (positions) {
    check_on_gpu(kOp, "positions", *positions);
    check_shape(kOp, "positions", *positions, {tokens});
    check_dtype(kOp, "positions", *positions, DType::kInt32);
    check_contiguous(kOp, "positions", *positions);
  }
  check_plan(kOp, block_tables, seq_lens, cu_seqlens_q, work, workspace);
  check_aligned(kOp, "workspace", workspace);
  if (plan.has_cross()) {
    check_that(kOp, "cross",
               cross_block_tables && cross_seq_lens && cross_cu_seqlens_q && cross_work,
               "is not given");
    check_plan(kOp, *cross_block_tables, *cross_seq_lens, *cross_cu_seqlens_q, *cross_work,
               workspace);
    check_shape(kOp, "cross_seq_lens", *cross_seq_lens, {tokens});
  }
  if (tokens == 0) return;
  dispatch_half(residual, [&](auto type) {
    using T = decltype(type);
    const Scratch at = plan.scratch();
    Arguments<T> a{};
    a.maps = reinterpret_cast<const Maps*>(scratch_ + at.maps);
    a.steps = reinterpret_cast<const Step*>(scratch_ + at.steps);
    a.state = reinterpret_cast<State*>(scratch_ + at.state);
    a.num_steps = plan.num_steps();
    a.tokens = tokens;
    a.hidden = plan.hidden_size;
    a.inverse_hidden = 1.0f / static_cast<float>(plan.hidden_size);
    a.buffers = reinterpret_cast<T*>(scratch_ + at.buffers);
    a.buffer_elements = plan.buffer_elements();
    a.out = out.as<T>();
    a.residual = residual.as<T>();
    a.k_cache = k_cache.as<T>();
    a.v_cache = v_cache.as<T>();
    a.layer_stride = layer_stride;
    a.cos_sin = plan.cos_sin();
    a.positions = positions ? positions->as<int32_t>() : nullptr;
    a.has_cross = plan.has_cross();
    a.layout = plan.layout_of(tokens);
    Attention<T> attention{};
    attention.num_tokens = tokens;
    attention.num_heads = plan.num_heads;
    attention.head_dim = plan.head_dim;
    attention.q_head_stride = plan.head_dim;
    set_caches(attention, k_cache, v_cache);
    set_scores(attention, scale, window, 0.0, alibi_slopes);
    set_workspace(attention, workspace);
    a.self = a.cross = attention;
    a.self.q_token_stride = int64_t{plan.num_heads + 2 * plan.num_kv_heads} * plan.head_dim;
    set_plan(a.self, block_tables, seq_lens, cu_seqlens_q, work);
    if (plan.has_cross()) {
      a.cross.q_token_stride = int64_t{plan.num_heads} * plan.head_dim;
      a.cross.window = 0;
      a.cross.alibi_slopes = nullptr;
      set_plan(a.cross, *cross_block_tables, *cross_seq_lens, *cross_cu_seqlens_q, *cross_work);
    }
    a.attention_warps = plan.attention_warps();
    a.item_heads = item_heads(plan.num_heads / plan.num_kv_heads);
    const auto launch =
        plan.head_dim == kNarrowHeads ? launch_stack<T, kNarrowHeads> : launch_stack<T, kWideHeads>;
    launch(a, stream);
  });
}

}  // namespace ft::cuda
