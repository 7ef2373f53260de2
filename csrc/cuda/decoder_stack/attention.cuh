// SPDX-License-Identifier: BSD-3-Clause
// Attention in decoder_stack: the items of attention/decode.cuh, dealt out to the blocks from the
// last one on, which have the fewest rows of weights.
#pragma once

#include "cuda/decoder_stack/attention_worker.cuh"
#include "cuda/decoder_stack/shared.cuh"

namespace ft::cuda::stack {

#ifdef FT_HOPPER

__device__ __forceinline__ int first_item() { return gridDim.x - 1 - blockIdx.x; }

// The items of this block from its `begin`-th on, as many as are planned at a time: a thread for
// each of the groups of keys that an item begins with. By all threads that attend.
template <typename T>
__device__ __noinline__ void plan_items(const Where& at, int begin, int first_groups) {
  const auto& attention = reinterpret_cast<const Call<T>*>(shared_memory(at.call))->attention;
  auto& items = *reinterpret_cast<Items*>(shared_memory(at.items));
  const int planned = threadIdx.x / Items::kFirstGroups, group = threadIdx.x % Items::kFirstGroups;
  if (planned >= Items::kPlanned || begin + planned >= items.count) return;
  const DecodePlan<T> all(attention, items.cumulative());
  const DecodeItem item = all[first_item() + (begin + planned) * gridDim.x];
  if (group == 0) items.planned[planned] = item;
  const int key = item.first_key() + group * kGroupKeys;
  if (group >= first_groups || key >= item.end) return;
  const int64_t offset = attention.offset_of_key(item.sequence, key);
  items.offsets[planned][group] =
      static_cast<unsigned>((offset + item.kv_head * attention.kv_head_stride) / Items::kPack);
}

// Once, since all layers have the same plan. All consumers.
template <typename T>
__device__ __forceinline__ void plan_attention(const Attention<T>& attention, const Where& at,
                                               int first_groups) {
  auto& items = *reinterpret_cast<Items*>(shared_memory(at.items));
#pragma unroll 1
  for (int i = threadIdx.x; i <= attention.num_sequences; i += kConsumers) {
    items.cumulative()[i] = attention.work[i];
  }
  device::named_barrier(1, kConsumers);
  if (threadIdx.x == 0) {
    const int num_items = DecodePlan<T>(attention, items.cumulative()).num_items;
    const int step = gridDim.x;
    items.count = max(0, (num_items - first_item() + step - 1) / step);
  }
  device::named_barrier(1, kConsumers);
  plan_items<T>(at, 0, first_groups);
}

// Tokens of nobody have no keys and no items, but what follows waits for their values too.
template <typename T>
__device__ __forceinline__ void clear_nobodys(T* out, int columns, const Items& items,
                                              int num_tokens) {
  const int token = blockIdx.x;
  if (token >= num_tokens) return;
  const int* const chunks = items.cumulative() + token;
  if (chunks[1] > chunks[0]) return;
#pragma unroll 1
  for (int at = threadIdx.x * 8; at < columns; at += kConsumers * 8) {
    *reinterpret_cast<uint4*>(out + token * columns + at) = uint4{};
  }
}

// Whether all items of the block are planned once and for all; others are planned as they come.
__device__ __forceinline__ bool keeps_plan(const Items& items) {
  return items.count <= Items::kPlanned;
}

// Asks for the keys and values that the block needs first, while what comes before the attention is
// computed. All consumers; the first `num_warps` warps attend.
template <typename T, int kHeadDim>
__device__ __forceinline__ void begin_attention(const Where& at, int num_warps, int item_heads) {
  const auto& items = *reinterpret_cast<const Items*>(shared_memory(at.items));
  if (static_cast<int>(threadIdx.x) >= num_warps * 32 || items.count == 0) return;
  if (keeps_plan(items)) Worker<T, kHeadDim>(at, num_warps, item_heads).begin(0);
}

// Goes on with what begin_attention has begun.
template <typename T, int kHeadDim>
__device__ __forceinline__ void attend(const Where& at, int num_warps, int item_heads) {
  auto& call = *reinterpret_cast<Call<T>*>(shared_memory(at.call));
  const auto& items = *reinterpret_cast<const Items*>(shared_memory(at.items));
  const Step& step = *reinterpret_cast<const Step*>(shared_memory(at.step));
  T* const out = call.buffers + step.out;
  clear_nobodys(out, step.out_columns, items, call.attention.num_sequences);
  const int count = items.count;
  if (static_cast<int>(threadIdx.x) >= num_warps * 32 || count == 0) return;
  if (threadIdx.x == 0) call.attention.out = out;  // for who merges, behind a barrier
  Worker<T, kHeadDim> worker(at, num_warps, item_heads);
  const int first_groups = num_warps * kRingStages<kHeadDim>;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const int planned = i % Items::kPlanned;
    if (planned == 0 && !keeps_plan(items)) {
      device::named_barrier(2, num_warps * 32);  // nobody needs the items before any more
      plan_items<T>(at, i, first_groups);
      device::named_barrier(2, num_warps * 32);
    }
    if (i > 0 || !keeps_plan(items)) worker.begin(planned);
    const auto states = worker.states(i);
    worker.attend(planned, states);
    device::named_barrier(2, num_warps * 32);
    worker.merge(planned, states);
  }
}

#endif  // FT_HOPPER

}  // namespace ft::cuda::stack
