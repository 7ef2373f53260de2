// SPDX-License-Identifier: BSD-3-Clause
// The CUDA launchers. Shapes: the ops of the same name; the last argument is the raw stream.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace ft::cuda {

void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, double eps, int64_t stream);
void add_rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, int64_t stream);
void process_logits(const Tensor& logits, const Tensor& token_pool, const Tensor& slots,
                    const Tensor& lengths, const Tensor& floats, const Tensor& integers,
                    const Tensor& bad_words, const Tensor& end_ids, int64_t stream);
void greedy(const Tensor& out, const Tensor& logits, const Tensor& slots, int64_t stream);
void sample(const Tensor& out, const Tensor& logits, const Tensor& slots, const Tensor& lengths,
            const Tensor& floats, const Tensor& integers, const Tensor& seeds, int64_t stream);
void log_probability(const Tensor& out, const Tensor& logits, const Tensor& tokens,
                     const Tensor& slots, const Tensor& integers, int64_t stream);

}  // namespace ft::cuda
