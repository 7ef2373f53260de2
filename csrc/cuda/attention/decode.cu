// SPDX-License-Identifier: BSD-3-Clause
// The attention kernel for sequences with one query.
#include "cuda/attention/decode.cuh"

#include "cuda/attention/launchers.h"

namespace ft::cuda {

template void launch_decode(const Attention<__nv_bfloat16>&, int, int64_t);
template void launch_decode(const Attention<__half>&, int, int64_t);

}  // namespace ft::cuda
