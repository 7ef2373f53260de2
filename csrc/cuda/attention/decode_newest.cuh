// SPDX-License-Identifier: BSD-3-Clause
// What a step adds to attention with single queries, where the kernel takes that over: it turns
// queries and newest keys by their positions, and keys and values go from the step's product into
// the ring and the cache.
#pragma once

#include "cuda/attention/decode_plan.cuh"

namespace ft::cuda {

// How the heads of a token turn. The functions below take all that they need by value: of the
// kernel's argument a function of its own would find no part without a trip to memory.
struct HeadTurn {
  const float* angles;  // the token's row, unless half is 0
  int half, head_dim;
  bool interleaved;
};

template <typename T>
__device__ __forceinline__ HeadTurn turn_of(const DecodeAttention<T>& a, const DecodeItem& item) {
  return {a.angles.row(item.position), a.angles.half, a.head_dim, a.interleaved};
}

// Turns `count` heads that lie `stride` elements apart, kBatch at a time; what lies behind the
// turned dimensions is copied. By a whole warp; other lanes see it behind __syncwarp().
template <typename T, bool kInterleaved, int kBatch>
__device__ __forceinline__ void turn_heads(const T* from, int stride, T* to, int to_stride,
                                           int count, const HeadTurn& how, int lane) {
  constexpr int kLanes = 2;
#pragma unroll 1
  for (int index = lane; index < how.half / kLanes; index += 32) {
    const auto turn = load_turn<kLanes, kInterleaved>(how.angles, how.half, index);
    const T* row = from;
    T* target = to;
#pragma unroll 1
    for (int begin = 0; begin < count; begin += kBatch) {
      Pairs<T, kLanes> pairs[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i, row += stride) {
        if (begin + i < count) pairs[i].load(row, turn);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i, target += to_stride) {
        if (begin + i >= count) break;
        pairs[i].template rotate<kInterleaved>(turn);
        pairs[i].store(target, turn);
      }
    }
  }
#pragma unroll 1
  for (int at = 2 * (how.half + lane); at < how.head_dim; at += 64) {
#pragma unroll 1
    for (int head = 0; head < count; ++head) {
      device::store_pack(to + head * to_stride + at,
                         device::load_pack<2>(from + head * stride + at));
    }
  }
}

template <typename T, bool kInterleaved>
__device__ __forceinline__ void turn_heads(const T* from, int stride, T* to, int to_stride,
                                           int count, const HeadTurn& how, int lane) {
  if (count == 1) return turn_heads<T, kInterleaved, 1>(from, 0, to, 0, 1, how, lane);
  turn_heads<T, kInterleaved, 4>(from, stride, to, to_stride, count, how, lane);
}

// The queries of an item. A function of its own, like the next: code takes time to arrive, too.
template <typename T>
__device__ __noinline__ void turn_queries(const T* from, int stride, T* to, int to_stride,
                                          int count, HeadTurn how, int lane) {
  __builtin_assume(__isGlobal(from) && __isGlobal(how.angles) && __isShared(to));
  if (how.interleaved) {
    turn_heads<T, true>(from, stride, to, to_stride, count, how, lane);
  } else {
    turn_heads<T, false>(from, stride, to, to_stride, count, how, lane);
  }
  __syncwarp();
}

// The newest key and value into their rows of a tile, zeros behind them up to `width`, and into the
// cache, unless that is null.
template <typename T>
__device__ __noinline__ void put_newest(const T* k, const T* v, T* key, T* value, T* k_cache,
                                        T* v_cache, int width, HeadTurn how, int lane) {
  __builtin_assume(__isGlobal(k) && __isGlobal(v) && __isGlobal(how.angles));
  __builtin_assume(__isShared(key) && __isShared(value));
  const int at = lane * 8;  // at most 256 dims: one pack for each lane
  device::Pack<T> packed{};
  if (at < how.head_dim) packed = device::load_pack(v + at);
  if (how.interleaved) {
    turn_heads<T, true, 1>(k, 0, key, 0, 1, how, lane);
  } else {
    turn_heads<T, false, 1>(k, 0, key, 0, 1, how, lane);
  }
  if (at < width) device::store_pack(value + at, packed);
  if (at < width && at >= how.head_dim) device::store_pack(key + at, device::Pack<T>{});
  __syncwarp();
  if (k_cache == nullptr || at >= how.head_dim) return;
  __builtin_assume(__isGlobal(k_cache) && __isGlobal(v_cache));
  device::store_pack(k_cache + at, device::load_pack(key + at));
  device::store_pack(v_cache + at, packed);
}

// The same for an item. Of those that share a key-value head it is the first that stores.
template <typename T>
__device__ __forceinline__ void put_newest(const DecodeAttention<T>& a, const DecodeItem& item,
                                           T* key, T* value, int width, int lane) {
  const bool stores = item.slot >= 0 && item.head * a.num_kv_heads == item.kv_head * a.num_heads;
  put_newest(a.k.at(item.token, item.kv_head), a.newest.v.at(item.token, item.kv_head), key, value,
             stores ? a.newest.k_cache.at(item.slot, item.kv_head) : nullptr,
             stores ? a.newest.v_cache.at(item.slot, item.kv_head) : nullptr, width,
             turn_of(a, item), lane);
}

}  // namespace ft::cuda
