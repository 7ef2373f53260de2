// SPDX-License-Identifier: BSD-3-Clause
// The kernels of encoder_attention. Heads of other sizes take the next larger kernel.
#include "cuda/attention/launchers.h"
#include "cuda/attention/packed_tiles.cuh"

namespace ft::cuda {

template <typename T>
void launch_encoder(const EncoderAttention<T>& attention, bool is_plain, int64_t stream) {
  const bool is_relative = attention.relative_bias != nullptr;
  if constexpr (sizeof(T) == 2) {
    if (!is_plain && is_relative) {
      return launch_prefill_heads<RelativeScore, 1, 64, 128>(attention, stream);
    }
    if (!is_plain && launch_encoder_sm90(attention, stream)) return;
    if (!is_plain) return launch_prefill_heads<Score, 2, 32, 64, 96, 128>(attention, stream);
  }
  if (is_relative) return launch_plain_with<RelativeScore>(attention, false, stream);
  launch_plain_with<Score>(attention, false, stream);
}

template void launch_encoder(const EncoderAttention<__nv_bfloat16>&, bool, int64_t);
template void launch_encoder(const EncoderAttention<__half>&, bool, int64_t);
template void launch_encoder(const EncoderAttention<float>&, bool, int64_t);

}  // namespace ft::cuda
