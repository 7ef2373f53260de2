// SPDX-License-Identifier: BSD-3-Clause
// activation and gated_activation, rows [T, I] and [T, 2I]. One thread computes one pack of the
// result.
#include "cuda/activation.cuh"
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "device/pdl.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

using device::Pack;

constexpr int kThreads = 256;

// Grid: rows, packs of a row. `size` is that of a row of `out`; with a gate, x has twice as many.
template <typename T, int kLanes, Activation kKind, bool kGated>
__global__ void __launch_bounds__(kThreads)
    activation_kernel(T* out, int64_t out_stride, const T* x, int64_t x_stride, int size) {
  device::wait_for_predecessor();
  const int at = (blockIdx.y * kThreads + threadIdx.x) * kLanes;
  if (at >= size) return;
  const T* row = x + blockIdx.x * x_stride + at;
  Pack<T, kLanes> values = device::load_pack<kLanes>(row);
  Pack<T, kLanes> up;
  if (kGated) up = device::load_pack<kLanes>(row + size);
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) {
    float value = activate(kKind, device::to_float(values.lanes[lane]));
    if (kGated) value *= device::to_float(up.lanes[lane]);
    values.lanes[lane] = device::from_float<T>(value);
  }
  device::store_pack(out + blockIdx.x * out_stride + at, values);
}

void check(const char* op, const char* argument, const Tensor& tensor) {
  check_on_gpu(op, argument, tensor);
  check_rows(op, argument, tensor);
}

template <bool kGated>
void run(const char* op, const Tensor& out, const Tensor& x, const std::string& kind,
         int64_t stream) {
  check_float(op, "x", x);
  check_shape(op, "x", x, {-1, -1});
  check(op, "x", x);
  check_that(op, "x", !kGated || x.shape[1] % 2 == 0, "has an odd number of columns");
  const int64_t size = x.shape[1] / (kGated ? 2 : 1);
  check_shape(op, "out", out, {x.shape[0], size});
  check_dtype(op, "out", out, x.dtype);
  check(op, "out", out);
  Tensor half = x;  // its second half starts on a pack if its first one ends on one
  half.shape[1] = size;
  dispatch_activation(activation_of(op, kind), [&](auto constant) {
    if (x.shape[0] == 0 || size == 0) return;
    dispatch_packs({&half, &out}, [&](auto type, auto lanes) {
      using T = decltype(type);
      const dim3 grid(static_cast<unsigned>(x.shape[0]), divide_up(size, kThreads * lanes));
      launch(op, activation_kernel<T, lanes, constant.value, kGated>, grid, kThreads, 0, stream,
             out.as<T>(), out.strides[0], x.as<T>(), x.strides[0], size);
    });
  });
}

}  // namespace

void activation(const Tensor& out, const Tensor& x, const std::string& kind, int64_t stream) {
  run<false>("activation", out, x, kind, stream);
}

void gated_activation(const Tensor& out, const Tensor& x, const std::string& kind, int64_t stream) {
  run<true>("gated_activation", out, x, kind, stream);
}

}  // namespace ft::cuda
