// SPDX-License-Identifier: BSD-3-Clause
// Attention of sequences with a single query, 16-bit types. An item is a chunk of kChunkKeys keys
// and up to 8 query heads of one key-value head; blocks walk the items with a stride, so that the
// grid does not depend on the lengths. Each warp streams groups of 16 keys through a ring of its
// own in shared memory, on across items, and the first ones while the kernel before still runs:
// only the newest key is of this step, all others were written before the step began. Products are
// K q^T and V^T p^T, keys and dims being the rows of the tensor cores. The chunks of a longer
// sequence leave their states in the workspace, and the block that comes last merges them in the
// order of the chunks. (Flash-Decoding, pytorch.org/blog/flash-decoding; Dao et al., arXiv
// 2205.14135)
#pragma once

#include <algorithm>

#include "cuda/attention/decode_state.cuh"
#include "cuda/attention/decode_stream.cuh"
#include "cuda/attention/limits.h"
#include "cuda/launch.h"
#include "device/pdl.cuh"
#include "device/tensor_core.cuh"

namespace ft::cuda {

// The queries of an item as the second operand: lane (g, t) holds head g, dims 16 i + 2t and + 8.
template <typename T, int kHeadDim>
__device__ void load_queries(uint32_t (&queries)[kHeadDim / 16][2], const Attention<T>& a,
                             const DecodeItem& item, int lane) {
  const bool valid = lane / 4 < item.num_heads;
  const T* query = a.query(item.token, item.head + (valid ? lane / 4 : 0));
#pragma unroll
  for (int i = 0; i < kHeadDim / 8; ++i) {
    const int dim = i * 8 + lane % 4 * 2;
    queries[i / 2][i % 2] =
        valid && dim < a.head_dim ? *reinterpret_cast<const uint32_t*>(query + dim) : 0;
  }
}

// One group of keys for all heads of the item: the scores of keys g, g, g + 8, g + 8 of the group
// and heads 2t, 2t + 1, 2t, 2t + 1.
template <typename T, int kHeadDim>
__device__ void score_keys(float (&scores)[4], const char* keys,
                           const uint32_t (&queries)[kHeadDim / 16][2], int lane) {
  float even[4] = {}, odd[4] = {};  // two chains of products, for half the latency
  const char* row = keys + lane % 16 * DecodeShape<kHeadDim>::kRowBytes + lane / 16 * 16;
#pragma unroll
  for (int i = 0; i < kHeadDim / 16; ++i) {
    uint32_t tile[4];
    device::load_matrices(tile, row + i * 32);
    device::product<T>(i % 2 == 0 ? even : odd, tile, queries[i][0], queries[i][1]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] = even[i] + odd[i];
}

// Turns scores into weights and makes room for them in the state.
template <int kHeadDim, typename S>
__device__ void weigh(float (&scores)[4], DecodeState<kHeadDim>& state, const S& score,
                      const DecodeItem& item, int key, const float (&slopes)[2]) {
  float next_best[2] = {state.best[0], state.best[1]};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = key + i / 2 * 8;
    scores[i] =
        at >= item.begin && at < item.end
            ? score(scores[i], slopes[i % 2], item.length - 1 - at) * score.exponent_factor()
            : -INFINITY;
    next_best[i % 2] = fmaxf(next_best[i % 2], scores[i]);
  }
#pragma unroll
  for (int column = 0; column < 2; ++column) {
#pragma unroll
    for (int width = 4; width < 32; width *= 2) {
      next_best[column] =
          fmaxf(next_best[column], __shfl_xor_sync(0xffffffffu, next_best[column], width));
    }
  }
  state.rescale(next_best);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scores[i] = device::exp2_fast(scores[i] - state.best[i % 2]);
    state.total[i % 2] += scores[i];  // of the lane's keys; summed over lanes at the end
  }
}

template <typename T, int kHeadDim>
__device__ void add_values(DecodeState<kHeadDim>& state, const char* values,
                           const float (&weights)[4], int lane) {
  const uint32_t low = device::transpose(device::pack<T>(weights[0], weights[1]));
  const uint32_t high = device::transpose(device::pack<T>(weights[2], weights[3]));
  const char* row =
      values + (lane % 8 + lane / 16 * 8) * DecodeShape<kHeadDim>::kRowBytes + lane / 8 % 2 * 16;
#pragma unroll
  for (int i = 0; i < kHeadDim / 16; ++i) {
    uint32_t tile[4];
    device::load_transposed(tile, row + i * 32);
    device::product<T>(state.sums[i], tile, low, high);
  }
}

// The state of this warp's groups of the item, which leave the ring from `stage` on.
template <typename T, int kHeadDim, typename S>
__device__ DecodeState<kHeadDim> attend(const Attention<T>& a, const DecodeItem& item,
                                        DecodeStream<T, kHeadDim>& stream, int& stage, int warp,
                                        int num_warps, int lane) {
  constexpr int kStages = DecodeShape<kHeadDim>::kStages;
  // Copies behind those of the next keys, and then behind those of the next values.
  constexpr int kPending = 2 * kStages - 1;
  const S score(a);
  uint32_t queries[kHeadDim / 16][2];
  load_queries<T, kHeadDim>(queries, a, item, lane);
  float slopes[2];
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    const int head = lane % 4 * 2 + column;
    slopes[column] = head < item.num_heads ? S::bias_of(a, item.head + head) : 0.0f;
  }
  DecodeState<kHeadDim> state;
  for (int key = item.first_key() + warp * kGroupKeys; key < item.end;
       key += num_warps * kGroupKeys) {
    float weights[4];
    device::wait_for_copies<kPending>();
    __syncwarp();
    score_keys<T, kHeadDim>(weights, stream.keys(stage), queries, lane);
    __syncwarp();
    stream.copy_keys(stage);
    weigh(weights, state, score, item, key + lane / 4, slopes);
    device::wait_for_copies<kPending>();
    __syncwarp();
    add_values<T, kHeadDim>(state, stream.values(stage), weights, lane);
    __syncwarp();
    stream.copy_values(stage);
    stage = (stage + 1) % kStages;
  }
  state.sum_totals();
  return state;
}

// The shared memory of a block: rings, states, chunks up to each sequence.
template <int kHeadDim>
struct DecodeShared {
  using Shape = DecodeShape<kHeadDim>;
  char* rings;
  DecodeStates<kHeadDim> states;
  int* cumulative;

  __device__ DecodeShared(char* shared, int num_warps, int num_heads) : rings(shared) {
    states.sums = reinterpret_cast<float*>(shared + num_warps * Shape::kRingBytes);
    states.num_warps = num_warps;
    states.num_heads = num_heads;
    states.totals = reinterpret_cast<float2*>(states.sum(num_warps, 0));
    cumulative = reinterpret_cast<int*>(states.totals + num_warps * num_heads);
  }
};

template <typename T, int kHeadDim, typename S>
__global__ void __launch_bounds__(DecodeShape<kHeadDim>::kMaxWarps * 32, 2)
    decode_kernel(const Attention<T> a) {
  using Shape = DecodeShape<kHeadDim>;
  extern __shared__ __align__(16) char memory[];
  const int num_warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const DecodeShared<kHeadDim> shared(memory, num_warps,
                                      min(kItemHeads, a.num_heads / a.num_kv_heads));
  for (int i = threadIdx.x; i <= a.num_sequences; i += blockDim.x) {
    shared.cumulative[i] = a.work[i];
  }
  __syncthreads();

  const DecodePlan<T> plan(a, shared.cumulative);
  const int block = blockIdx.x;
  // The first block waits in any case: the kernel must not end before the one in front of it.
  if (block > 0 && block >= plan.num_items) return;
  DecodeStream<T, kHeadDim> stream(plan, shared.rings + warp * Shape::kRingBytes, warp, num_warps,
                                   lane);
  int filled = 0;
  for (; filled < Shape::kStages && !stream.has_newest(); ++filled) stream.copy(filled);
  DecodeItem item;
  if (block < plan.num_items) item = plan[block];
  device::wait_for_predecessor(a.num_sequences);
  for (; filled < Shape::kStages; ++filled) stream.copy(filled);

  int stage = 0;
  for (int index = block; index < plan.num_items; index += gridDim.x) {
    if (index != block) item = plan[index];
    if (item.begin >= item.end) continue;  // the window begins behind this chunk
    const auto state = attend<T, kHeadDim, S>(a, item, stream, stage, warp, num_warps, lane);
    __syncthreads();  // the states of the item before were read
    state.store(shared.states, warp, lane, item.num_heads);
    __syncthreads();
    merge_warps<T>(a, item, shared.states, item.num_chunks > 1);
    if (item.num_chunks > 1 && is_last(a, item)) {
      merge_chunks<T>(a, item, shared.states, warp, lane);
    }
  }
}

// The same for every batch, since the order of sums depends on it.
template <int kHeadDim>
int num_decode_warps(int num_heads) {
  constexpr int kReserved = 6 * 1024;  // of each block: by the system, and for the plan
  const size_t room = shared_bytes_per_multiprocessor() / 2 - kReserved;
  const size_t fitting = room / DecodeShape<kHeadDim>::warp_bytes(num_heads);
  return static_cast<int>(std::clamp<size_t>(fitting, 1, DecodeShape<kHeadDim>::kMaxWarps));
}

template <typename T, int kHeadDim, typename S>
void launch_decode_of(const Attention<T>& attention, int max_seqlen_k, int64_t stream) {
  const char* op = "paged_attention";
  const auto kernel = decode_kernel<T, kHeadDim, S>;
  const int group = attention.num_heads / attention.num_kv_heads;
  const int num_heads = std::min(group, kItemHeads);
  const int num_warps = num_decode_warps<kHeadDim>(num_heads);
  const size_t bytes = num_warps * DecodeShape<kHeadDim>::warp_bytes(num_heads) +
                       (attention.num_sequences + 1) * sizeof(int);
  static const bool allowed = (allow_shared(op, kernel, shared_bytes_per_block() - 1024), true);
  (void)allowed;
  int blocks = 0;
  check_cuda(op,
             cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, num_warps * 32, bytes));
  const int64_t tiles = attention.num_kv_heads * ((group + kItemHeads - 1) / kItemHeads);
  const int64_t chunks = (max_seqlen_k + kChunkKeys - 1) / kChunkKeys;
  const int64_t items = std::max<int64_t>(1, attention.num_sequences * chunks * tiles);
  const int64_t resident = static_cast<int64_t>(std::max(1, blocks)) * num_multiprocessors();
  launch(op, kernel, static_cast<unsigned>(std::min(items, resident)), num_warps * 32, bytes,
         stream, attention);
}

template <typename T, typename S>
void launch_decode_with(const Attention<T>& attention, int max_seqlen_k, int64_t stream) {
  const int head_dim = attention.head_dim;
  if (head_dim <= 64) return launch_decode_of<T, 64, S>(attention, max_seqlen_k, stream);
  if (head_dim <= 80) return launch_decode_of<T, 80, S>(attention, max_seqlen_k, stream);
  if (head_dim <= 96) return launch_decode_of<T, 96, S>(attention, max_seqlen_k, stream);
  if (head_dim <= 128) return launch_decode_of<T, 128, S>(attention, max_seqlen_k, stream);
  launch_decode_of<T, 256, S>(attention, max_seqlen_k, stream);
}

template <typename T>
void launch_decode(const Attention<T>& attention, int max_seqlen_k, int64_t stream) {
  if (attention.relative_bias != nullptr) {
    launch_decode_with<T, RelativeScore>(attention, max_seqlen_k, stream);
  } else {
    launch_decode_with<T, Score>(attention, max_seqlen_k, stream);
  }
}

}  // namespace ft::cuda
