// SPDX-License-Identifier: BSD-3-Clause
// The CUDA launchers. Shapes: the ops of the same name; the last argument is the raw stream.
#pragma once

#include <cstdint>
#include <optional>

#include "core/tensor.h"

namespace ft::cuda {

void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, double eps, int64_t stream);
void add_rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, int64_t stream);
void paged_attention(const Tensor& out, const Tensor& q, const Tensor& k_cache,
                     const Tensor& v_cache, const Tensor& block_tables, const Tensor& seq_lens,
                     const Tensor& cu_seqlens_q, const Tensor& work, const Tensor& workspace,
                     int64_t max_seqlen_q, int64_t max_seqlen_k, double scale, int64_t window,
                     double soft_cap, const std::optional<Tensor>& alibi_slopes, int64_t stream);

}  // namespace ft::cuda
