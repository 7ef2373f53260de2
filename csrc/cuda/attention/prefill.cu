// SPDX-License-Identifier: BSD-3-Clause
// The attention kernel for sequences with several queries.
#include "cuda/attention/prefill.cuh"

#include "cuda/attention/launchers.h"

namespace ft::cuda {

template void launch_prefill(const Attention<__nv_bfloat16>&, int64_t);
template void launch_prefill(const Attention<__half>&, int64_t);

}  // namespace ft::cuda
