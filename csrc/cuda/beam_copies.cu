// SPDX-License-Identifier: BSD-3-Clause
// copy_rows and copy_blocks: what beams take over from others, one pair of places beside the other.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "cuda/sampling.h"
#include "device/pdl.cuh"

namespace ft::cuda {
namespace {

constexpr int kThreads = 256;

struct Pairs {
  const int32_t *sources, *targets;
};

// Part `part` of every place lies `part * part_stride` words behind its first.
template <typename Word>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(Word* data, int64_t place_stride, int64_t part_stride, int size, Pairs pairs) {
  const int64_t source = pairs.sources[blockIdx.x], target = pairs.targets[blockIdx.x];
  device::wait_for_predecessor();
  data += blockIdx.y * part_stride;
  for (int i = threadIdx.x; i < size; i += kThreads) {
    data[target * place_stride + i] = data[source * place_stride + i];
  }
}

Pairs check_pairs(const char* op, const Tensor& sources, const Tensor& targets) {
  check_shape(op, "sources", sources, {-1});
  check_vector(op, "sources", sources, sources.shape[0], DType::kInt32);
  check_vector(op, "targets", targets, sources.shape[0], DType::kInt32);
  return {sources.as<int32_t>(), targets.as<int32_t>()};
}

}  // namespace

void copy_rows(const Tensor& token_pool, const Tensor& sources, const Tensor& targets,
               int64_t length, int64_t stream) {
  const char* const op = "copy_rows";
  const Pairs pairs = check_pairs(op, sources, targets);
  check_on_gpu(op, "token_pool", token_pool);
  check_shape(op, "token_pool", token_pool, {-1, -1});
  check_dtype(op, "token_pool", token_pool, DType::kInt32);
  check_rows(op, "token_pool", token_pool);
  check_that(op, "token_pool", length <= token_pool.shape[1], "has shorter rows than are copied");
  if (sources.shape[0] == 0 || length <= 0) return;
  launch(op, copy_kernel<int32_t>, dim3(static_cast<unsigned>(sources.shape[0])), kThreads, 0,
         stream, token_pool.as<int32_t>(), token_pool.strides[0], 0, static_cast<int>(length),
         pairs);
}

void copy_blocks(const Tensor& kv_cache, const Tensor& sources, const Tensor& targets,
                 int64_t stream) {
  const char* const op = "copy_blocks";
  const Pairs pairs = check_pairs(op, sources, targets);
  check_on_gpu(op, "kv_cache", kv_cache);
  check_shape(op, "kv_cache", kv_cache, {-1, 2, -1, -1, -1, -1});
  check_float(op, "kv_cache", kv_cache);
  check_contiguous(op, "kv_cache", kv_cache);
  const int64_t num_blocks = kv_cache.shape[2];
  const int64_t elements = kv_cache.shape[3] * kv_cache.shape[4] * kv_cache.shape[5];
  const int64_t layers = kv_cache.shape[0] * kv_cache.shape[1];
  if (sources.shape[0] == 0 || layers == 0 || elements == 0) return;
  const auto copy = [&](auto word, int64_t words) {
    using Word = decltype(word);
    launch(op, copy_kernel<Word>,
           dim3(static_cast<unsigned>(sources.shape[0]), static_cast<unsigned>(layers)), kThreads,
           0, stream, kv_cache.as<Word>(), words, num_blocks * words, static_cast<int>(words),
           pairs);
  };
  dispatch(kv_cache, [&](auto type) {
    using T = decltype(type);
    constexpr int kLanes = 16 / sizeof(T);
    const bool fits =
        reinterpret_cast<uintptr_t>(kv_cache.data) % 16 == 0 && elements % kLanes == 0;
    fits ? copy(uint4{}, elements / kLanes) : copy(type, elements);
  });
}

}  // namespace ft::cuda
