// SPDX-License-Identifier: BSD-3-Clause
// Checks of what the attention ops take, the same on all devices. See core/check.h.
#pragma once

#include <optional>

#include "core/check.h"

namespace ft {

inline constexpr int64_t kMaxHeadDim = 256;

// float32 [heads, any].
void check_relative_bias(const char* op, const std::optional<Tensor>& bias, int64_t heads);

// Of ops over packed sequences, by their names.
void check_encoder_attention(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& cu_seqlens, const std::optional<Tensor>& relative_bias);
void check_disentangled_attention(const Tensor& out, const Tensor& q, const Tensor& k,
                                  const Tensor& v, const std::optional<Tensor>& content_to_position,
                                  const std::optional<Tensor>& position_to_content,
                                  const Tensor& buckets, const Tensor& cu_seqlens,
                                  int64_t max_seqlen);

}  // namespace ft
