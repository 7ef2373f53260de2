// SPDX-License-Identifier: BSD-3-Clause
// The kernels of disentangled_attention. Heads of other sizes take the next larger kernel.
#include "cuda/attention/launchers.h"
#include "cuda/attention/packed_tiles.cuh"

namespace ft::cuda {

template <typename T>
void launch_disentangled(const DisentangledAttention<T>& attention, bool is_plain, int64_t stream) {
  if constexpr (sizeof(T) == 2) {
    if (!is_plain) return launch_prefill_heads<DisentangledScore, 1, 64, 128>(attention, stream);
  }
  launch_plain_with<DisentangledScore>(attention, false, stream);
}

template void launch_disentangled(const DisentangledAttention<__nv_bfloat16>&, bool, int64_t);
template void launch_disentangled(const DisentangledAttention<__half>&, bool, int64_t);
template void launch_disentangled(const DisentangledAttention<float>&, bool, int64_t);

}  // namespace ft::cuda
