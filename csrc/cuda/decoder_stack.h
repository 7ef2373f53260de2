// SPDX-License-Identifier: BSD-3-Clause
// All layers of a decoder as one kernel, for steps of a few tokens of as many sequences
// (decoder_stack/kernel.cuh). Bit for bit what the kernels of the layers one by one compute.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/tensor.h"

namespace ft::cuda {

namespace stack {
class Plan;
}

class DecoderStack {
 public:
  DecoderStack(int num_heads, int num_kv_heads, int head_dim, int hidden_size);
  ~DecoderStack();
  DecoderStack(const DecoderStack&) = delete;
  DecoderStack& operator=(const DecoderStack&) = delete;

  // The next product, with `weight` [N, K]. With `norm_weight` [H] of norm(residual += what the
  // product before left), a layer_norm where there is `norm_bias`; else of what the step before
  // left. `activation`: a kind of ops/activation.py, or empty; `is_gated`: act(first half) * second
  // half.
  void add_linear(const Tensor& weight, const std::optional<Tensor>& bias,
                  const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias,
                  double eps, const std::string& activation, bool is_gated);
  // Attention of what the product before left: q, k and v, or with `is_cross` q of attention to an
  // encoder. `layer`: of the cache. `cos_sin`: as for rope, of pairs half a head apart.
  void add_attention(int layer, bool is_cross, const std::optional<Tensor>& relative_bias,
                     const std::optional<Tensor>& cos_sin);

  // Whether this device has a kernel for these sizes. What follows is of those that fit.
  bool fits() const { return max_tokens() > 0; }
  int max_tokens() const;
  int64_t scratch_bytes() const;
  // Writes the steps into `scratch`, which the kernel then reads.
  void place(const Tensor& scratch);

  // residual [T, H] is overwritten; what the layers leave is `out`, to be added to it. Caches: of
  // layer 0, `layer_stride` elements before those of the next. Else as paged_attention, the second
  // time for the encoder's keys.
  void run(const Tensor& out, const Tensor& residual, const Tensor& k_cache, const Tensor& v_cache,
           int64_t layer_stride, const std::optional<Tensor>& positions, const Tensor& block_tables,
           const Tensor& seq_lens, const Tensor& cu_seqlens_q, const Tensor& work,
           const std::optional<Tensor>& cross_block_tables,
           const std::optional<Tensor>& cross_seq_lens,
           const std::optional<Tensor>& cross_cu_seqlens_q, const std::optional<Tensor>& cross_work,
           const Tensor& workspace, double scale, int64_t window,
           const std::optional<Tensor>& alibi_slopes, int64_t stream) const;

 private:
  std::unique_ptr<stack::Plan> plan_;
  char* scratch_ = nullptr;
};

}  // namespace ft::cuda
