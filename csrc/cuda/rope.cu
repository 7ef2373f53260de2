// SPDX-License-Identifier: BSD-3-Clause
// rope and rope_kv_write, heads [T, N, D]. One thread turns `kLanes` pairs of a head, or copies a
// pack that nothing turns. The two packs that hold its pairs: for pairs (i, i + R/2) one in each
// half of the R turned dimensions, for pairs (2i, 2i + 1) two neighbours.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "cuda/paged_cache.cuh"
#include "device/pdl.cuh"
#include "device/rotation.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

using device::Pack;

constexpr int kThreads = 128;

struct Angles {
  const int32_t* positions;  // [T]
  const float* cos_sin;      // [P, 2 * half]
  int half;                  // R/2
};

template <typename T>
struct Destination {
  PagedCache<T> k_cache, v_cache;
  Heads<T> v;
  const int32_t* slot_mapping;
};

template <int kLanes>
struct Turn {
  Pack<float, kLanes> cos, sin;
  int first, second;  // elements at which the packs start
};

template <int kLanes, bool kInterleaved>
__device__ __forceinline__ Turn<kLanes> load_turn(const Angles& angles, int64_t token, int index) {
  const int64_t position = angles.positions[token];
  const float* cos = angles.cos_sin + position * 2 * angles.half + index * kLanes;
  const int first = kInterleaved ? 2 * index * kLanes : index * kLanes;
  return {device::load_pack<kLanes>(cos), device::load_pack<kLanes>(cos + angles.half), first,
          first + (kInterleaved ? kLanes : angles.half)};
}

// Lane i of the two packs, seen as 2 * kLanes elements in a row.
template <typename P>
__device__ __forceinline__ auto& element(P& first, P& second, int i) {
  return i < P::kSize ? first.lanes[i] : second.lanes[i - P::kSize];
}

template <typename T, int kLanes, bool kInterleaved>
__device__ __forceinline__ void rotate(const T* from, T* to, const Turn<kLanes>& turn) {
  Pack<T, kLanes> first = device::load_pack<kLanes>(from + turn.first);
  Pack<T, kLanes> second = device::load_pack<kLanes>(from + turn.second);
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    T& a = element(first, second, kInterleaved ? 2 * i : i);
    T& b = element(first, second, kInterleaved ? 2 * i + 1 : kLanes + i);
    const T x = a, y = b;
    a = device::turned_first(x, y, turn.cos.lanes[i], turn.sin.lanes[i]);
    b = device::turned_second(x, y, turn.cos.lanes[i], turn.sin.lanes[i]);
  }
  device::store_pack(to + turn.first, first);
  device::store_pack(to + turn.second, second);
}

template <int kLanes, typename T>
__device__ __forceinline__ void copy(const T* from, T* to) {
  device::store_pack(to, device::load_pack<kLanes>(from));
}

// Grid of both: tokens, units of a token: first the turns of q, then those of k, then what is
// copied.
template <typename T, int kLanes, bool kInterleaved>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(Heads<T> q, Heads<T> k, Angles angles, int num_heads, int num_kv_heads) {
  const int64_t token = blockIdx.x;
  const int unit = blockIdx.y * kThreads + threadIdx.x, turns = angles.half / kLanes;
  const int head = unit / turns;
  const auto turn = load_turn<kLanes, kInterleaved>(angles, token, unit % turns);
  device::wait_for_predecessor();
  if (head >= num_heads + num_kv_heads) return;
  T* row = head < num_heads ? q.at(token, head) : k.at(token, head - num_heads);
  rotate<T, kLanes, kInterleaved>(row, row, turn);
}

template <typename T, int kLanes, bool kInterleaved>
__global__ void __launch_bounds__(kThreads)
    rope_kv_write_kernel(Heads<T> q, Heads<T> k, Destination<T> to, Angles angles, int num_heads,
                         int num_kv_heads, int head_dim) {
  const int64_t token = blockIdx.x;
  const int unit = blockIdx.y * kThreads + threadIdx.x, turns = angles.half / kLanes;
  const int num_turns = (num_heads + num_kv_heads) * turns;
  Turn<kLanes> turn;
  if (unit < num_turns) turn = load_turn<kLanes, kInterleaved>(angles, token, unit % turns);
  const int slot = to.slot_mapping[token];
  device::wait_for_predecessor();
  if (unit < num_heads * turns) {
    T* row = q.at(token, unit / turns);
    rotate<T, kLanes, kInterleaved>(row, row, turn);
    return;
  }
  if (slot < 0) return;
  if (unit < num_turns) {
    const int head = unit / turns - num_heads;
    rotate<T, kLanes, kInterleaved>(k.at(token, head), to.k_cache.at(slot, head), turn);
    return;
  }
  // The packs of v, and for every head those of k behind its turned dimensions.
  const int head_packs = head_dim / kLanes, rest_packs = head_packs - 2 * turns;
  const int pack = unit - num_turns, num_value_packs = num_kv_heads * head_packs;
  if (pack < num_value_packs) {
    const int head = pack / head_packs, at = pack % head_packs * kLanes;
    copy<kLanes>(to.v.at(token, head) + at, to.v_cache.at(slot, head) + at);
  } else if (pack < num_value_packs + num_kv_heads * rest_packs) {
    const int head = (pack - num_value_packs) / rest_packs;
    const int at = 2 * angles.half + (pack - num_value_packs) % rest_packs * kLanes;
    copy<kLanes>(k.at(token, head) + at, to.k_cache.at(slot, head) + at);
  }
}

void check_rope(const char* op, const Tensor& q, const Tensor& k, const Tensor& positions,
                const Tensor& cos_sin) {
  check_float(op, "q", q);
  check_shape(op, "q", q, {-1, -1, -1});
  check_heads(op, "q", q, q);
  check_heads(op, "k", k, q);
  check_shape(op, "positions", positions, {q.shape[0]});
  check_dtype(op, "positions", positions, DType::kInt32);
  check_contiguous(op, "positions", positions);
  check_on_gpu(op, "positions", positions);
  check_shape(op, "cos_sin", cos_sin, {-1, -1});
  check_dtype(op, "cos_sin", cos_sin, DType::kFloat32);
  check_contiguous(op, "cos_sin", cos_sin);
  check_on_gpu(op, "cos_sin", cos_sin);
  check_that(op, "cos_sin", cos_sin.shape[1] > 0, "has no columns");
  check_that(op, "cos_sin", cos_sin.shape[1] % 2 == 0, "has an odd number of columns");
  check_that(op, "cos_sin", cos_sin.shape[1] <= q.shape[2], "is wider than a head");
}

// Calls body(T{}, lanes, interleaved), the last two constants: `lanes` pairs of a head side by
// side. Two are for models that turn a small, odd part of a head (GPT-NeoX: 24 of 96 dimensions).
template <typename Body>
void dispatch_rope(std::initializer_list<const Tensor*> heads, const Tensor& cos_sin,
                   bool interleaved, Body body) {
  dispatch(**heads.begin(), [&](auto type) {
    using T = decltype(type);
    const auto fits = [&](int64_t lanes) {
      return cos_sin.shape[1] / 2 % lanes == 0 && has_packs<float>(cos_sin, lanes) &&
             std::all_of(heads.begin(), heads.end(),
                         [&](const Tensor* tensor) { return has_packs<T>(*tensor, lanes); });
    };
    const auto with = [&](auto lanes) {
      interleaved ? body(type, lanes, std::true_type{}) : body(type, lanes, std::false_type{});
    };
    constexpr int kLanes = 16 / sizeof(T);
    if (fits(kLanes)) {
      with(std::integral_constant<int, kLanes>{});
    } else if (fits(2)) {
      with(std::integral_constant<int, 2>{});
    } else {
      with(std::integral_constant<int, 1>{});
    }
  });
}

}  // namespace

void rope(const Tensor& q, const Tensor& k, const Tensor& positions, const Tensor& cos_sin,
          bool interleaved, int64_t stream) {
  check_rope("rope", q, k, positions, cos_sin);
  const int64_t num_heads = q.shape[1], num_kv_heads = k.shape[1], half = cos_sin.shape[1] / 2;
  if (q.shape[0] == 0 || num_heads + num_kv_heads == 0) return;
  dispatch_rope({&q, &k}, cos_sin, interleaved, [&](auto type, auto lanes, auto pairs) {
    using T = decltype(type);
    const int64_t units = (num_heads + num_kv_heads) * (half / lanes);
    const Angles angles{positions.as<int32_t>(), cos_sin.as<float>(), static_cast<int>(half)};
    launch("rope", rope_kernel<T, lanes, pairs>,
           dim3(static_cast<unsigned>(q.shape[0]), divide_up(units, kThreads)), kThreads, 0, stream,
           Heads<T>(q), Heads<T>(k), angles, num_heads, num_kv_heads);
  });
}

void rope_kv_write(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                   const Tensor& cos_sin, bool interleaved, const Tensor& k_cache,
                   const Tensor& v_cache, const Tensor& slot_mapping, int64_t stream) {
  check_rope("rope_kv_write", q, k, positions, cos_sin);
  check_cache_write("rope_kv_write", k, v, k_cache, v_cache, slot_mapping);
  const int64_t num_heads = q.shape[1], num_kv_heads = k.shape[1], half = cos_sin.shape[1] / 2;
  if (q.shape[0] == 0 || num_heads + num_kv_heads == 0) return;
  dispatch_rope(
      {&q, &k, &v, &k_cache, &v_cache}, cos_sin, interleaved,
      [&](auto type, auto lanes, auto pairs) {
        using T = decltype(type);
        const int64_t turns = half / lanes, packs = q.shape[2] / lanes;
        const int64_t copies = num_kv_heads * (packs + packs - 2 * turns);
        const int64_t units = (num_heads + num_kv_heads) * turns + copies;
        const Angles angles{positions.as<int32_t>(), cos_sin.as<float>(), static_cast<int>(half)};
        const Destination<T> to{PagedCache<T>(k_cache), PagedCache<T>(v_cache), Heads<T>(v),
                                slot_mapping.as<int32_t>()};
        launch("rope_kv_write", rope_kv_write_kernel<T, lanes, pairs>,
               dim3(static_cast<unsigned>(q.shape[0]), divide_up(units, kThreads)), kThreads, 0,
               stream, Heads<T>(q), Heads<T>(k), to, angles, num_heads, num_kv_heads, q.shape[2]);
      });
}

}  // namespace ft::cuda
