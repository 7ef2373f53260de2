// SPDX-License-Identifier: BSD-3-Clause
// Which encoder_attention Hopper's kernel takes, and its launch.
#include "cuda/attention/launchers.h"
#include "cuda/attention/prefill_sm90_launch.cuh"
#include "cuda/attention/prefill_sm90_packed.cuh"

namespace ft::cuda {
namespace prefill_sm90 {
namespace {

template <typename T>
Maps maps_of(const EncoderAttention<T>& a) {
  const Tensor q = heads_of(a, a.q, a.q_token_stride, a.q_head_stride);
  const Tensor k = heads_of(a, a.k, a.key_stride, a.key_head_stride);
  const Tensor v = heads_of(a, a.v, a.key_stride, a.key_head_stride);
  return {query_map(a.kOp, q, kPackedRows), query_map(a.kOp, k, kPackedRows),
          query_map(a.kOp, v, kPackedRows), kPackedRows};
}

template <int kHeadDim, int kWarpgroups, typename T>
bool launch_warpgroups(const EncoderAttention<T>& a, int64_t stream) {
  using S = Shape<EncoderAttention<T>, kHeadDim, kWarpgroups>;
  return launch_shape<S>(a, [&] { return maps_of(a); }, stream);
}

// How many warpgroups share keys and values; results do not depend on it. While one multiplies,
// others compute weights; but those that the average sequence leaves without rows only cost time,
// and so do multiprocessors without items.
template <typename T>
int num_warpgroups(const EncoderAttention<T>& a) {
  const int64_t average = a.num_tokens / a.num_sequences;
  for (int count = 3; count > 1; --count) {
    const int64_t rows = count * kWarpgroupRows, tiles = (average + rows - 1) / rows;
    const bool fills_blocks = average > rows - kWarpgroupRows;
    const bool fills_device = tiles * a.num_sequences * a.num_heads >= num_multiprocessors();
    if (fills_blocks && fills_device) return count;
  }
  return 1;
}

}  // namespace
}  // namespace prefill_sm90

template <typename T>
bool launch_encoder_sm90(const EncoderAttention<T>& attention, int64_t stream) {
  using namespace prefill_sm90;
  if (attention.head_dim == 128) return launch_warpgroups<128, 2>(attention, stream);
  if (attention.head_dim != 64) return false;
  switch (num_warpgroups(attention)) {
    case 1:
      return launch_warpgroups<64, 1>(attention, stream);
    case 2:
      return launch_warpgroups<64, 2>(attention, stream);
    default:
      return launch_warpgroups<64, 3>(attention, stream);
  }
}

template bool launch_encoder_sm90(const EncoderAttention<__nv_bfloat16>&, int64_t);
template bool launch_encoder_sm90(const EncoderAttention<__half>&, int64_t);

}  // namespace ft::cuda
