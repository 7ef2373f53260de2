// SPDX-License-Identifier: BSD-3-Clause
// pool: one row for each of several sequences of rows. A block takes 32 packs of columns of a
// sequence, each of its warps every kWarps-th row; what the warps found is put together in their
// order, so that a sequence's result depends on nothing beside it.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "device/pdl.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

constexpr int kWarps = 16;

enum class Pooling { kMean, kSum, kMax };

template <Pooling kHow>
__device__ __forceinline__ float pooled(float a, float b) {
  return kHow == Pooling::kMax ? fmaxf(a, b) : a + b;
}

template <Pooling kHow>
constexpr float kNeutral = kHow == Pooling::kMax ? -INFINITY : 0.0f;

// Grid: sequences, columns. Block: packs, rows.
template <typename T, int kLanes, Pooling kHow>
__global__ void __launch_bounds__(32 * kWarps)
    pool_kernel(float* out, int64_t out_stride, const T* tokens, int64_t token_stride,
                const int32_t* cu_seqlens, int size) {
  constexpr int kColumns = 32 * kLanes;  // of a block
  __shared__ float partial[kWarps][kColumns];
  const int begin = cu_seqlens[blockIdx.x], end = cu_seqlens[blockIdx.x + 1];
  const int first = blockIdx.y * kColumns, own = threadIdx.x * kLanes;
  float values[kLanes];
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = kNeutral<kHow>;
  device::wait_for_predecessor();
  if (first + own < size) {
#pragma unroll 4
    for (int row = begin + threadIdx.y; row < end; row += kWarps) {
      const auto pack = device::load_pack<kLanes>(tokens + row * token_stride + first + own);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        values[lane] = pooled<kHow>(values[lane], device::to_float(pack.lanes[lane]));
      }
    }
  }
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) partial[threadIdx.y][own + lane] = values[lane];
  __syncthreads();
  const int column = threadIdx.y * 32 + threadIdx.x;
  if (column >= kColumns || first + column >= size) return;
  float value = kNeutral<kHow>;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) value = pooled<kHow>(value, partial[warp][column]);
  if (kHow == Pooling::kMean) value /= static_cast<float>(end - begin);
  out[blockIdx.x * out_stride + first + column] = begin < end ? value : 0.0f;
}

template <Pooling kHow>
void run(const Tensor& out, const Tensor& tokens, const Tensor& cu_seqlens, int64_t stream) {
  dispatch_packs({&tokens}, [&](auto type, auto lanes) {
    using T = decltype(type);
    const dim3 grid(static_cast<unsigned>(out.shape[0]), divide_up(out.shape[1], 32 * lanes));
    launch("pool", pool_kernel<T, lanes, kHow>, grid, dim3(32, kWarps), 0, stream, out.as<float>(),
           out.strides[0], tokens.as<T>(), tokens.strides[0], cu_seqlens.as<int32_t>(),
           out.shape[1]);
  });
}

}  // namespace

void pool(const Tensor& out, const Tensor& tokens, const Tensor& cu_seqlens, const std::string& how,
          int64_t stream) {
  check_float("pool", "tokens", tokens);
  check_shape("pool", "tokens", tokens, {-1, -1});
  check_rows("pool", "tokens", tokens);
  check_on_gpu("pool", "tokens", tokens);
  check_shape("pool", "cu_seqlens", cu_seqlens, {-1});
  check_dtype("pool", "cu_seqlens", cu_seqlens, DType::kInt32);
  check_contiguous("pool", "cu_seqlens", cu_seqlens);
  check_on_gpu("pool", "cu_seqlens", cu_seqlens);
  check_that("pool", "cu_seqlens", cu_seqlens.shape[0] > 0, "is empty");
  check_shape("pool", "out", out, {cu_seqlens.shape[0] - 1, tokens.shape[1]});
  check_dtype("pool", "out", out, DType::kFloat32);
  check_rows("pool", "out", out);
  check_on_gpu("pool", "out", out);
  if (out.shape[0] == 0 || out.shape[1] == 0) return;
  if (how == "mean") return run<Pooling::kMean>(out, tokens, cu_seqlens, stream);
  if (how == "sum") return run<Pooling::kSum>(out, tokens, cu_seqlens, stream);
  if (how == "max") return run<Pooling::kMax>(out, tokens, cu_seqlens, stream);
  throw std::invalid_argument("pool: how is " + how + "; expected mean, sum or max");
}

}  // namespace ft::cuda
