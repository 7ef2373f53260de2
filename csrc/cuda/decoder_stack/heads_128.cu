// SPDX-License-Identifier: BSD-3-Clause
// decoder_stack for heads of up to 128 dimensions.
#include "cuda/decoder_stack/instance.cuh"

namespace ft::cuda::stack {

template AttentionRoom attention_room<128>(int);
template void launch_stack<__nv_bfloat16, 128>(const Arguments<__nv_bfloat16>&, int64_t);
template void launch_stack<__half, 128>(const Arguments<__half>&, int64_t);

}  // namespace ft::cuda::stack
