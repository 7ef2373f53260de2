// SPDX-License-Identifier: BSD-3-Clause
// rms_norm and add_rms_norm: one block per row [T, H]; a thread keeps its packs of the row in
// registers between the two passes, so that the row is read once.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

using device::Pack;

constexpr int kThreads = 256;
constexpr int kMaxPacks = 8;  // of one thread: rows of up to 8192 floats or 16384 halves

template <typename T>
__device__ Pack<T> sum_of(const Pack<T>& a, const Pack<T>& b) {
  Pack<T> result;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    result.lanes[i] =
        device::from_float<T>(device::to_float(a.lanes[i]) + device::to_float(b.lanes[i]));
  }
  return result;
}

template <typename T>
__device__ void store_scaled(T* to, const Pack<T>& value, const Pack<T>& weight, float scale) {
  Pack<T> result;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    result.lanes[i] = device::from_float<T>(device::to_float(value.lanes[i]) * scale *
                                            device::to_float(weight.lanes[i]));
  }
  device::store_pack(to, result);
}

// residual: null where there is no sum before the norm.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(T* out, const T* x, T* residual, const T* weight, int size, float eps) {
  device::launch_dependents();
  device::wait_for_predecessor();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * size;
  const int packs = size / Pack<T>::kSize;
  Pack<T> values[kMaxPacks];
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kMaxPacks; ++i) {
    const int pack = threadIdx.x + i * kThreads;
    if (pack >= packs) break;
    const int64_t at = row + static_cast<int64_t>(pack) * Pack<T>::kSize;
    values[i] = device::load_pack(x + at);
    if (residual != nullptr) {
      values[i] = sum_of(values[i], device::load_pack(residual + at));
      device::store_pack(residual + at, values[i]);
    }
#pragma unroll
    for (int lane = 0; lane < Pack<T>::kSize; ++lane) {
      const float value = device::to_float(values[i].lanes[lane]);
      squares += value * value;
    }
  }
  const float scale = rsqrtf(device::block_sum<kThreads>(squares) / size + eps);
#pragma unroll
  for (int i = 0; i < kMaxPacks; ++i) {
    const int pack = threadIdx.x + i * kThreads;
    if (pack >= packs) break;
    const int at = pack * Pack<T>::kSize;
    store_scaled(out + row + at, values[i], device::load_pack(weight + at), scale);
  }
}

void check(const char* op, const char* argument, const Tensor& tensor, const Tensor& x) {
  check_on_gpu(op, argument, tensor);
  check_dtype(op, argument, tensor, x.dtype);
  check_contiguous(op, argument, tensor);
  check_aligned(op, argument, tensor);
}

void run(const char* op, const Tensor& out, const Tensor& x, const Tensor* residual,
         const Tensor& weight, double eps, int64_t stream) {
  check_float(op, "x", x);
  check_shape(op, "x", x, {-1, -1});
  check(op, "x", x, x);
  check_shape(op, "out", out, {x.shape[0], x.shape[1]});
  check(op, "out", out, x);
  check_shape(op, "weight", weight, {x.shape[1]});
  check(op, "weight", weight, x);
  if (residual != nullptr) {
    check_shape(op, "residual", *residual, {x.shape[0], x.shape[1]});
    check(op, "residual", *residual, x);
  }
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    const int64_t size = x.shape[1];
    check_that(op, "x", size % Pack<T>::kSize == 0, "has rows that are no multiple of 16 bytes");
    check_that(op, "x", size <= kMaxPacks * kThreads * Pack<T>::kSize,
               "has rows that are too long");
    if (x.shape[0] == 0) return;
    launch(op, rms_norm_kernel<T>, static_cast<unsigned>(x.shape[0]), kThreads, 0, stream,
           out.as<T>(), x.as<T>(), residual == nullptr ? nullptr : residual->as<T>(),
           weight.as<T>(), size, eps);
  });
}

}  // namespace

void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, double eps,
              int64_t stream) {
  run("rms_norm", out, x, nullptr, weight, eps, stream);
}

void add_rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, int64_t stream) {
  run("add_rms_norm", out, x, &residual, weight, eps, stream);
}

}  // namespace ft::cuda
