// SPDX-License-Identifier: BSD-3-Clause
// Attention over the paged cache for what the tensor cores do not take.
#include "cuda/attention/plain.cuh"

#include "cuda/attention/launchers.h"

namespace ft::cuda {

template <typename T>
void launch_plain(const Attention<T>& attention, bool skip_single, int64_t stream) {
  const auto launch_with = attention.relative_bias != nullptr
                               ? launch_plain_with<RelativeScore, Attention<T>>
                               : launch_plain_with<Score, Attention<T>>;
  launch_with(attention, skip_single, stream);
}

template void launch_plain(const Attention<__nv_bfloat16>&, bool, int64_t);
template void launch_plain(const Attention<__half>&, bool, int64_t);
template void launch_plain(const Attention<float>&, bool, int64_t);

}  // namespace ft::cuda
