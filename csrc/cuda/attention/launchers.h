// SPDX-License-Identifier: BSD-3-Clause
// The attention kernels' launchers; each is instantiated in a file of its own, which bounds the
// time that one file takes to compile.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda/attention/packed.cuh"

namespace ft::cuda {

// Whether the tensor cores' kernels take these tensors: whole tiles of them, and copies of 16
// bytes. Of heads it is the last dimension that is copied.
inline bool fits_tensor_cores(std::initializer_list<Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const Tensor& tensor) {
    return tensor.dtype != DType::kFloat32 && tensor.shape[tensor.ndim - 1] % 8 == 0 &&
           reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 &&
           std::all_of(tensor.strides, tensor.strides + tensor.ndim - 1,
                       [](int64_t stride) { return stride % 8 == 0; });
  });
}

// Sequences with one query, the chunks of the plan. T is a 16-bit type.
template <typename T>
void launch_decode(const Attention<T>& attention, int max_seqlen_k, int64_t stream);

// Sequences with several queries, the tiles of the plan. T is a 16-bit type. No relative bias.
template <typename T>
void launch_prefill(const Attention<T>& attention, int64_t stream);

// The same on Hopper; false if it does not take this head size, cache or device.
template <typename T>
bool launch_prefill_sm90(const Attention<T>& attention, int64_t stream);

// All queries, or those of sequences with several; any type and alignment, and any bias.
template <typename T>
void launch_plain(const Attention<T>& attention, bool skip_single, int64_t stream);

// Packed sequences; `is_plain`: also what the tensor cores do not take, any type and alignment.
template <typename T>
void launch_encoder(const EncoderAttention<T>& attention, bool is_plain, int64_t stream);
// The same without relative bias on Hopper; false if it does not take this head size or device. T
// is a 16-bit type.
template <typename T>
bool launch_encoder_sm90(const EncoderAttention<T>& attention, int64_t stream);

template <typename T>
void launch_disentangled(const DisentangledAttention<T>& attention, bool is_plain, int64_t stream);

}  // namespace ft::cuda
