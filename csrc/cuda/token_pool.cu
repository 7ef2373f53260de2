// SPDX-License-Identifier: BSD-3-Clause
// take_tokens and put_tokens: single tokens of the pool [slots, positions], one thread each.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "device/pdl.cuh"

namespace ft::cuda {
namespace {

constexpr int kThreads = 128;

struct Places {
  int32_t* pool;
  int64_t slot_stride;
  const int32_t *slots, *positions;
  int count;
};

__global__ void __launch_bounds__(kThreads) take_tokens_kernel(int32_t* out, Places places) {
  device::wait_for_predecessor();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= places.count) return;
  out[i] = places.pool[places.slots[i] * places.slot_stride + places.positions[i]];
}

__global__ void __launch_bounds__(kThreads)
    put_tokens_kernel(Places places, const int32_t* tokens) {
  device::wait_for_predecessor();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= places.count || places.slots[i] < 0) return;
  places.pool[places.slots[i] * places.slot_stride + places.positions[i]] = tokens[i];
}

void check_list(const char* op, const char* argument, const Tensor& list, int64_t count) {
  check_shape(op, argument, list, {count});
  check_dtype(op, argument, list, DType::kInt32);
  check_contiguous(op, argument, list);
  check_on_gpu(op, argument, list);
}

Places places_of(const char* op, const Tensor& token_pool, const Tensor& slots,
                 const Tensor& positions) {
  check_shape(op, "token_pool", token_pool, {-1, -1});
  check_dtype(op, "token_pool", token_pool, DType::kInt32);
  check_rows(op, "token_pool", token_pool);
  check_on_gpu(op, "token_pool", token_pool);
  check_list(op, "slots", slots, -1);
  check_list(op, "positions", positions, slots.shape[0]);
  return {token_pool.as<int32_t>(), token_pool.strides[0], slots.as<int32_t>(),
          positions.as<int32_t>(), static_cast<int>(slots.shape[0])};
}

}  // namespace

void take_tokens(const Tensor& out, const Tensor& token_pool, const Tensor& slots,
                 const Tensor& positions, int64_t stream) {
  const Places places = places_of("take_tokens", token_pool, slots, positions);
  check_list("take_tokens", "out", out, places.count);
  if (places.count == 0) return;
  launch("take_tokens", take_tokens_kernel, divide_up(places.count, kThreads), kThreads, 0, stream,
         out.as<int32_t>(), places);
}

void put_tokens(const Tensor& token_pool, const Tensor& slots, const Tensor& positions,
                const Tensor& tokens, int64_t stream) {
  const Places places = places_of("put_tokens", token_pool, slots, positions);
  check_list("put_tokens", "tokens", tokens, places.count);
  if (places.count == 0) return;
  launch("put_tokens", put_tokens_kernel, divide_up(places.count, kThreads), kThreads, 0, stream,
         places, tokens.as<int32_t>());
}

}  // namespace ft::cuda
