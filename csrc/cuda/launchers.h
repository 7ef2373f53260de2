// SPDX-License-Identifier: BSD-3-Clause
// The CUDA launchers. Shapes: the ops of the same name; the last argument is the raw stream.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "cuda/peer_arena.h"

namespace ft::cuda {

void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, double eps, int64_t stream);
void add_rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, int64_t stream);

// The device (launch.cu).
void set_device(int index);
std::vector<int> architectures();
bool has_code_for_device();

// Collectives over the ranks of `arena`, in this rank's part of them. x is summed in place and may
// lie in at most slot_bytes() for one shot, `size` times that for two; out [R, size * C] takes x
// [R, C] of all ranks side by side.
void all_reduce_one_shot(const Tensor& x, const PeerArena& arena, int64_t stream);
void all_reduce_two_shot(const Tensor& x, const PeerArena& arena, int64_t stream);
void all_gather_columns(const Tensor& out, const Tensor& x, const PeerArena& arena, int64_t stream);

}  // namespace ft::cuda
