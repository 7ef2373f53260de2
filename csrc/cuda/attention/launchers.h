// SPDX-License-Identifier: BSD-3-Clause
// The attention kernels' launchers; each is instantiated in a file of its own, which bounds the
// time that one file takes to compile.
#pragma once

#include <cstdint>

#include "cuda/attention/attention.cuh"

namespace ft::cuda {

// Sequences with one query, the chunks of the plan. T is a 16-bit type.
template <typename T>
void launch_decode(const Attention<T>& attention, int max_seqlen_k, int64_t stream);

// Sequences with several queries, the tiles of the plan. T is a 16-bit type. No relative bias.
template <typename T>
void launch_prefill(const Attention<T>& attention, int64_t stream);

// All queries, or those of sequences with several; any type and alignment, and any bias.
template <typename T>
void launch_plain(const Attention<T>& attention, bool skip_single, int64_t stream);

}  // namespace ft::cuda
