// SPDX-License-Identifier: BSD-3-Clause
// route, group_by_expert and combine_experts: which experts a token goes to, the rows of every
// expert side by side, and their results back to the tokens. Nothing is read back by the host.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "cuda/sampling.h"
#include "device/pdl.cuh"
#include "device/rank.cuh"
#include "device/reduce.cuh"
#include "device/vec.cuh"
#include "device/warp.cuh"

namespace ft::cuda {
namespace {

constexpr int kRouteThreads = 128;  // a warp for every token
constexpr int kGroupThreads = 1024;
constexpr int kMaxExperts = kGroupThreads;
constexpr int kCombineThreads = 256;

__global__ void __launch_bounds__(kRouteThreads)
    route_kernel(const float* logits, int64_t stride, int num_tokens, int num_experts, int top_k,
                 bool normalised, float* shares, int32_t* experts) {
  device::wait_for_predecessor();
  const int token = blockIdx.x * (kRouteThreads / 32) + device::warp();
  if (token >= num_tokens) return;
  const float* const row = logits + token * stride;
  shares += static_cast<int64_t>(token) * top_k;
  experts += static_cast<int64_t>(token) * top_k;
  float largest = 0.0f, chosen = 0.0f;
  uint64_t last = ~uint64_t{0};
  for (int i = 0; i < top_k; ++i) {
    uint64_t best = 0;
    for (int expert = device::lane(); expert < num_experts; expert += 32) {
      const uint64_t rank = device::rank_of(row[expert], expert);
      if (rank < last) best = max(best, rank);
    }
    last = device::warp_max(best);
    if (i == 0) largest = device::logit_of(last);
    const float share = expf(device::logit_of(last) - largest);
    chosen += share;
    if (device::lane() == 0) {
      shares[i] = share;
      experts[i] = device::index_of(last);
    }
  }
  float sum = 0.0f;
  for (int expert = device::lane(); expert < num_experts; expert += 32) {
    sum += expf(row[expert] - largest);
  }
  sum = device::warp_sum(sum);
  __syncwarp();
  for (int i = device::lane(); i < top_k; i += 32) shares[i] /= normalised ? chosen : sum;
}

// One block counts, adds up, and deals out the places. Within an expert the order is any: rows do
// not meet there.
__global__ void __launch_bounds__(kGroupThreads)
    group_by_expert_kernel(const int32_t* experts, int num_pairs, int top_k, int num_experts,
                           int32_t* rows, int32_t* places, int32_t* offsets) {
  __shared__ int counts[kMaxExperts], of_warps[kGroupThreads / 32];
  const int expert = threadIdx.x;
  counts[expert] = 0;
  device::wait_for_predecessor();
  __syncthreads();
  for (int pair = threadIdx.x; pair < num_pairs; pair += kGroupThreads) {
    atomicAdd(&counts[experts[pair]], 1);
  }
  __syncthreads();
  const int count = counts[expert];
  int until = static_cast<int>(device::warp_prefix(count));
  if (device::lane() == 31) of_warps[device::warp()] = until;
  __syncthreads();
  for (int i = 0; i < device::warp(); ++i) until += of_warps[i];
  counts[expert] = until - count;  // now the place of its next row
  if (expert < num_experts) offsets[expert + 1] = until;
  if (expert == 0) offsets[0] = 0;
  __syncthreads();
  for (int pair = threadIdx.x; pair < num_pairs; pair += kGroupThreads) {
    const int place = atomicAdd(&counts[experts[pair]], 1);
    rows[place] = pair / top_k;
    places[pair] = place;
  }
}

// Grid: tokens, packs of a row.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kCombineThreads)
    combine_experts_kernel(T* out, const T* results, const int32_t* places, const float* shares,
                           const T* shared, int top_k, int columns) {
  device::wait_for_predecessor();
  const int column = (blockIdx.y * kCombineThreads + threadIdx.x) * kLanes;
  if (column >= columns) return;
  const int64_t token = blockIdx.x, at = token * columns + column;
  float sums[kLanes] = {};
  if (shared != nullptr) {
    const auto pack = device::load_pack<kLanes>(shared + at);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) sums[i] = device::to_float(pack.lanes[i]);
  }
  for (int j = 0; j < top_k; ++j) {
    const float share = shares[token * top_k + j];
    const int64_t place = places[token * top_k + j];
    const auto pack = device::load_pack<kLanes>(results + place * columns + column);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) sums[i] += share * device::to_float(pack.lanes[i]);
  }
  device::Pack<T, kLanes> result;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) result.lanes[i] = device::from_float<T>(sums[i]);
  device::store_pack(out + at, result);
}

void check_matrix(const char* op, const char* argument, const Tensor& tensor, int64_t rows,
                  int64_t columns, DType dtype) {
  check_on_gpu(op, argument, tensor);
  check_shape(op, argument, tensor, {rows, columns});
  check_dtype(op, argument, tensor, dtype);
  check_contiguous(op, argument, tensor);
}

}  // namespace

void route(const Tensor& logits, bool normalised, const Tensor& shares, const Tensor& experts,
           int64_t stream) {
  const char* const op = "route";
  check_on_gpu(op, "logits", logits);
  check_shape(op, "logits", logits, {-1, -1});
  check_dtype(op, "logits", logits, DType::kFloat32);
  check_rows(op, "logits", logits);
  check_shape(op, "shares", shares, {logits.shape[0], -1});
  const int64_t num_tokens = logits.shape[0], top_k = shares.shape[1];
  check_that(op, "shares", top_k <= logits.shape[1], "has more columns than there are experts");
  check_matrix(op, "shares", shares, num_tokens, top_k, DType::kFloat32);
  check_matrix(op, "experts", experts, num_tokens, top_k, DType::kInt32);
  if (num_tokens == 0 || top_k == 0) return;
  launch(op, route_kernel, divide_up(num_tokens, kRouteThreads / 32), kRouteThreads, 0, stream,
         logits.as<float>(), logits.strides[0], static_cast<int>(num_tokens),
         static_cast<int>(logits.shape[1]), static_cast<int>(top_k), normalised, shares.as<float>(),
         experts.as<int32_t>());
}

void group_by_expert(const Tensor& experts, const Tensor& rows, const Tensor& places,
                     const Tensor& offsets, int64_t stream) {
  const char* const op = "group_by_expert";
  check_shape(op, "experts", experts, {-1, -1});
  const int64_t num_tokens = experts.shape[0], top_k = experts.shape[1];
  check_matrix(op, "experts", experts, num_tokens, top_k, DType::kInt32);
  check_vector(op, "rows", rows, num_tokens * top_k, DType::kInt32);
  check_matrix(op, "places", places, num_tokens, top_k, DType::kInt32);
  check_shape(op, "offsets", offsets, {-1});
  const int64_t num_experts = offsets.shape[0] - 1;
  check_vector(op, "offsets", offsets, num_experts + 1, DType::kInt32);
  check_that(op, "offsets", num_experts >= 1 && num_experts <= kMaxExperts,
             "is not that of 1 to 1024 experts");
  check_that(op, "experts", num_tokens * top_k < int64_t{1} << 31, "has 2^31 elements or more");
  launch(op, group_by_expert_kernel, 1, kGroupThreads, 0, stream, experts.as<int32_t>(),
         static_cast<int>(num_tokens * top_k), static_cast<int>(std::max<int64_t>(top_k, 1)),
         static_cast<int>(num_experts), rows.as<int32_t>(), places.as<int32_t>(),
         offsets.as<int32_t>());
}

void combine_experts(const Tensor& out, const Tensor& results, const Tensor& places,
                     const Tensor& shares, const std::optional<Tensor>& shared, int64_t stream) {
  const char* const op = "combine_experts";
  check_float(op, "results", results);
  check_shape(op, "places", places, {-1, -1});
  const int64_t num_tokens = places.shape[0], top_k = places.shape[1];
  check_matrix(op, "places", places, num_tokens, top_k, DType::kInt32);
  check_matrix(op, "shares", shares, num_tokens, top_k, DType::kFloat32);
  check_shape(op, "results", results, {num_tokens * top_k, -1});
  const int64_t columns = results.shape[1];
  check_matrix(op, "results", results, num_tokens * top_k, columns, results.dtype);
  check_matrix(op, "out", out, num_tokens, columns, results.dtype);
  if (shared) check_matrix(op, "shared", *shared, num_tokens, columns, results.dtype);
  if (num_tokens == 0 || columns == 0) return;
  dispatch_packs({&results, &out, shared ? &*shared : &out}, [&](auto type, auto lanes) {
    using T = decltype(type);
    const dim3 grid(static_cast<unsigned>(num_tokens),
                    divide_up(columns, kCombineThreads * int64_t{lanes}));
    launch(op, combine_experts_kernel<T, lanes>, grid, kCombineThreads, 0, stream, out.as<T>(),
           results.as<T>(), places.as<int32_t>(), shares.as<float>(),
           shared ? shared->as<T>() : nullptr, static_cast<int>(top_k), static_cast<int>(columns));
  });
}

}  // namespace ft::cuda
