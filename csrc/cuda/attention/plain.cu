// SPDX-License-Identifier: BSD-3-Clause
// The attention kernel for what the tensor cores do not take.
#include "cuda/attention/plain.cuh"

#include "cuda/attention/launchers.h"

namespace ft::cuda {

template void launch_plain(const Attention<__nv_bfloat16>&, bool, int64_t);
template void launch_plain(const Attention<__half>&, bool, int64_t);
template void launch_plain(const Attention<float>&, bool, int64_t);

}  // namespace ft::cuda
