// SPDX-License-Identifier: BSD-3-Clause
// Attention of sequences with a single query, 16-bit types. An item is a chunk of the keys
// and up to 8 query heads of one key-value head; blocks walk the items with a stride, so that the
// grid does not depend on the lengths. Each warp streams groups of 16 keys through a ring of its
// own in shared memory, on across items, and the first ones while the kernel before still runs:
// only the newest key is of this step, all others were written before the step began. What warps
// leave of an item is merged head by head, a warp for each, while the others go on. The chunks of a
// longer sequence leave their states in the workspace, and the warp that comes last merges them in
// the order of the chunks.
// (Flash-Decoding, pytorch.org/blog/flash-decoding; Dao et al., arXiv 2205.14135)
#pragma once

#include <algorithm>

#include "cuda/attention/decode_group.cuh"
#include "cuda/attention/decode_merge.cuh"
#include "cuda/attention/decode_shared.cuh"
#include "cuda/attention/decode_stream.cuh"
#include "cuda/attention/limits.h"
#include "cuda/launch.h"
#include "device/barrier.cuh"
#include "device/pdl.cuh"

namespace ft::cuda {

// The state of the item's groups `first`, first + step, ..., which leave the ring from `stage` on.
template <typename T, int kHeadDim, typename S>
__device__ DecodeState<kHeadDim> attend(const Attention<T>& a, const DecodeItem& item,
                                        DecodeStream<T, kHeadDim>& stream, int& stage, int first,
                                        int step, int lane) {
  using Shape = DecodeShape<kHeadDim>;
  // Copies behind those of the next keys, and then behind those of the next values.
  constexpr int kPending = 2 * Shape::kStages - 1;
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
  for (int key = item.first_key() + first * kGroupKeys; key < item.end; key += step * kGroupKeys) {
    float weights[4];
    device::wait_for_copies<kPending>();
    __syncwarp();
    score_keys<T, kHeadDim>(weights, stream.keys(stage), queries, lane);
    __syncwarp();
    stream.copy_keys(stage);
    weigh(weights, state, [&](int i, float dot) {
      const int at = key + lane / 4 + i / 2 * 8;
      return at >= item.begin && at < item.end
                 ? score(dot, slopes[i % 2], item.length - 1 - at) * score.exponent_factor()
                 : -INFINITY;
    });
    device::wait_for_copies<kPending>();
    __syncwarp();
    add_values<T, kHeadDim>(state, stream.values(stage), weights, lane);
    __syncwarp();
    stream.copy_values(stage);
    stage = (stage + 1) % Shape::kStages;
  }
  state.sum_totals();
  return state;
}

// A warp that attends. Of an item's groups every warp takes each num_warps-th, at every item
// another one the first. States are merged in the order of the groups, whichever warp it was.
template <typename T, int kHeadDim, typename S>
struct DecodeWorker {
  using Shape = DecodeShape<kHeadDim>;
  const Attention<T>& attention;
  const DecodeShared<kHeadDim>& shared;
  const int warp, lane;
  DecodeStream<T, kHeadDim> stream;
  BufferPosition<kHeadDim> at;
  int stage = 0;

  __device__ DecodeWorker(const Attention<T>& a, const DecodeShared<kHeadDim>& memory, int thread)
      : attention(a),
        shared(memory),
        warp(thread / 32),
        lane(thread % 32),
        stream(a, memory.rings + warp * Shape::kRingBytes, warp, memory.num_warps, lane) {}

  // The first groups into the rings; until the predecessor has ended, keys of older steps alone.
  __device__ void start(int num_items, bool is_early) {
    stream.start(shared.items, num_items);
    stage = 0;
#pragma unroll 1
    for (int filled = 0; filled < Shape::kStages; ++filled) {
      if (is_early && stream.has_newest()) wait_for_predecessor(is_early);
      stream.copy(filled);
    }
    if (is_early) wait_for_predecessor(is_early);
  }

  __device__ void run(int num_items) {
    int worker = warp;
    for (int i = 0; i < num_items; ++i) {
      const DecodeItem& item = shared.items[i];
      const int num_groups = item.num_groups();
      if (num_groups > 0) run(item, worker, num_groups);
      if (++worker == shared.num_warps) worker = 0;
    }
  }

 private:
  __device__ void wait_for_predecessor(bool& is_early) const {
    device::wait_for_predecessor();
    is_early = false;
  }

  __device__ void run(const DecodeItem& item, int worker, int num_groups) {
    const DecodeStates<kHeadDim> states = shared.states(at.buffer);
    if (worker < num_groups) {
      const auto state =
          attend<T, kHeadDim, S>(attention, item, stream, stage, worker, shared.num_warps, lane);
      device::barrier_wait(&shared.merged[at.buffer], at.parity ^ 1);
      state.store(states, worker, lane, item.num_heads);
    } else {
      device::barrier_wait(&shared.merged[at.buffer], at.parity ^ 1);
    }
    device::barrier_arrive(&shared.left[at.buffer]);
    const int first_head = shared.num_warps - 1 - worker;  // the last ones have the fewest groups
    if (first_head < item.num_heads) {
      device::barrier_wait(&shared.left[at.buffer], at.parity);
      merge_heads(attention, item, states, min(num_groups, shared.num_warps), first_head,
                  shared.num_warps, lane);
    }
    device::barrier_arrive(&shared.merged[at.buffer]);
    at.advance();
  }
};

template <typename T, int kHeadDim, typename S>
__global__ void __launch_bounds__(DecodeShape<kHeadDim>::kMaxWarps * 32,
                                  DecodeShape<kHeadDim>::kBlocks)
    decode_kernel(const __grid_constant__ Attention<T> a) {
  extern __shared__ __align__(16) char memory[];
  const int num_warps = blockDim.x / 32, thread = threadIdx.x;
  const DecodeShared<kHeadDim> shared(memory, num_warps,
                                      min(kItemHeads, a.num_heads / a.num_kv_heads));
  for (int i = thread; i <= a.num_sequences; i += blockDim.x) shared.cumulative[i] = a.work[i];
  if (thread < DecodeShape<kHeadDim>::kBuffers) {
    device::barrier_init(&shared.left[thread], num_warps * 32);
    device::barrier_init(&shared.merged[thread], num_warps * 32);
  }
  __syncthreads();

  const DecodePlan<T> plan(a, shared.cumulative);
  const int block = blockIdx.x, step = gridDim.x;
  // The first block waits in any case: the kernel must not end before the one in front of it.
  if (block > 0 && block >= plan.num_items) return;
  DecodeWorker<T, kHeadDim, S> worker(a, shared, thread);
  int begin = block;
  do {
    const int index = begin + thread * step;
    if (thread < kPlannedItems && index < plan.num_items) shared.items[thread] = plan[index];
    __syncthreads();
    const int num_items = min(kPlannedItems, max(0, plan.num_items - begin + step - 1) / step);
    worker.start(num_items, begin == block);
    worker.run(num_items);
    __syncthreads();  // the items are needed no more
    begin += kPlannedItems * step;
  } while (begin < plan.num_items);
}

// The same for every batch, since the order of sums depends on it.
template <int kHeadDim>
int num_decode_warps(int num_heads) {
  constexpr int kReserved = 5 * 1024;  // of each block: by the system, and for the plan
  const size_t room =
      shared_bytes_per_multiprocessor() / DecodeShape<kHeadDim>::kBlocks - kReserved;
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
                       DecodeShared<kHeadDim>::kPlanBytes +
                       (attention.num_sequences + 1) * sizeof(int);
  static const bool allowed = (allow_shared(op, kernel, shared_bytes_per_block() - 1024), true);
  (void)allowed;
  int blocks = 0;
  check_cuda(op,
             cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, num_warps * 32, bytes));
  const int64_t tiles = attention.num_kv_heads * ((group + kItemHeads - 1) / kItemHeads);
  const int64_t chunks = (max_seqlen_k + kChunkKeys - 1) / kChunkKeys;  // at most
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
