// SPDX-License-Identifier: BSD-3-Clause
// What a step adds to attention with single queries, where the kernel takes that over: it turns
// queries and newest keys by their positions, and keys and values go from the step's product into
// the ring and the cache.
#pragma once

#include "cuda/attention/decode_plan.cuh"

namespace ft::cuda {

// Turns `count` heads that lie `stride` elements apart, kBatch at a time; what lies behind the
// turned dimensions is copied. By a whole warp; other lanes see it behind __syncwarp().
template <typename T, bool kInterleaved, int kBatch>
__device__ void turn_heads(const T* from, int stride, T* to, int to_stride, int count,
                           const DecodeAttention<T>& a, int position, int lane) {
  constexpr int kLanes = 2;
  const Angles& angles = a.newest.angles;
  for (int index = lane; index < angles.half / kLanes; index += 32) {
    const auto turn = load_turn<kLanes, kInterleaved>(angles, position, index);
#pragma unroll 1
    for (int begin = 0; begin < count; begin += kBatch) {
      Pairs<T, kLanes> pairs[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (begin + i < count) pairs[i].load(from + (begin + i) * stride, turn);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (begin + i >= count) continue;
        pairs[i].template rotate<kInterleaved>(turn);
        pairs[i].store(to + (begin + i) * to_stride, turn);
      }
    }
  }
  for (int at = 2 * (angles.half + lane); at < a.head_dim; at += 64) {
    for (int head = 0; head < count; ++head) {
      device::store_pack(to + head * to_stride + at,
                         device::load_pack<2>(from + head * stride + at));
    }
  }
}

// The item's queries; a rehearsal turns what lies in `to`. A function of its own, like the next: code
// takes time to arrive, too.
template <typename T>
__device__ __noinline__ void turn_queries(const DecodeAttention<T>& a, const DecodeItem& item, T* to,
                                          int to_stride, bool is_rehearsal, int lane) {
  constexpr int kBatch = 4;
  const T* from = is_rehearsal ? to : a.query(item.token, item.head);
  const int stride = is_rehearsal ? 0 : static_cast<int>(a.q_head_stride);
  const int count = is_rehearsal ? 1 : item.num_heads;
  if (a.newest.interleaved) {
    turn_heads<T, true, kBatch>(from, stride, to, to_stride, count, a, item.position, lane);
  } else {
    turn_heads<T, false, kBatch>(from, stride, to, to_stride, count, a, item.position, lane);
  }
  __syncwarp();
}

// The newest key and value of the item into their rows of a tile, zeros behind them up to `width`,
// and into the cache. Of the items that share a key-value head it is the first that stores. A
// rehearsal does so with what lies in the rows, and stores nothing.
template <typename T>
__device__ __noinline__ void put_newest(const DecodeAttention<T>& a, const DecodeItem& item, T* key,
                                        T* value, int width, bool is_rehearsal, int lane) {
  const Newest<T>& newest = a.newest;
  const T* from = is_rehearsal ? key : newest.k.at(item.token, item.kv_head);
  if (newest.interleaved) {
    turn_heads<T, true, 1>(from, 0, key, 0, 1, a, item.position, lane);
  } else {
    turn_heads<T, false, 1>(from, 0, key, 0, 1, a, item.position, lane);
  }
  const int at = lane * 8;  // at most 256 dims: one pack for each lane
  if (at < a.head_dim) {
    from = is_rehearsal ? value : newest.to.v.at(item.token, item.kv_head);
    device::store_pack(value + at, device::load_pack(from + at));
  } else if (at < width) {
    device::store_pack(key + at, device::Pack<T>{});
    device::store_pack(value + at, device::Pack<T>{});
  }
  __syncwarp();
  const bool is_first = item.head * a.num_kv_heads == item.kv_head * a.num_heads;
  if (is_rehearsal || item.slot < 0 || at >= a.head_dim || !is_first) return;
  device::store_pack(newest.to.k_cache.at(item.slot, item.kv_head) + at,
                     device::load_pack(key + at));
  device::store_pack(newest.to.v_cache.at(item.slot, item.kv_head) + at,
                     device::load_pack(value + at));
}

// What an item needs of the predecessor's results, into the first cache.
template <typename T>
__device__ __noinline__ void prefetch(const DecodeAttention<T>& a, const DecodeItem& item, int lane) {
  constexpr int kSector = 32 / sizeof(T);
  const int sectors = (a.head_dim + kSector - 1) / kSector;
  const int heads = item.num_heads + (a.newest.is_given ? 2 : 0);
  for (int i = lane; i < heads * sectors; i += 32) {
    const int head = i / sectors;
    const T* row = head < item.num_heads    ? a.query(item.token, item.head + head)
                   : head == item.num_heads ? a.newest.k.at(item.token, item.kv_head)
                                            : a.newest.to.v.at(item.token, item.kv_head);
    unsigned unused;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(unused) : "l"(row + i % sectors * kSector));
  }
}

}  // namespace ft::cuda
