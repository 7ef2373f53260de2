// SPDX-License-Identifier: BSD-3-Clause
// add: rows [T, H], in place. One thread adds one pack.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "device/pdl.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

constexpr int kThreads = 256;

// Grid: rows, packs of a row.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    add_kernel(T* x, int64_t x_stride, const T* y, int64_t y_stride, int size) {
  device::wait_for_predecessor();
  const int at = (blockIdx.y * kThreads + threadIdx.x) * kLanes;
  if (at >= size) return;
  T* const place = x + blockIdx.x * x_stride + at;
  device::Pack<T, kLanes> sum = device::load_pack<kLanes>(place);
  const device::Pack<T, kLanes> more = device::load_pack<kLanes>(y + blockIdx.x * y_stride + at);
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) {
    sum.lanes[lane] = device::from_float<T>(device::to_float(sum.lanes[lane]) +
                                            device::to_float(more.lanes[lane]));
  }
  device::store_pack(place, sum);
}

}  // namespace

void add(const Tensor& x, const Tensor& y, int64_t stream) {
  check_float("add", "x", x);
  check_shape("add", "x", x, {-1, -1});
  check_rows("add", "x", x);
  check_on_gpu("add", "x", x);
  check_shape("add", "y", y, {x.shape[0], x.shape[1]});
  check_dtype("add", "y", y, x.dtype);
  check_rows("add", "y", y);
  check_on_gpu("add", "y", y);
  if (x.shape[0] == 0 || x.shape[1] == 0) return;
  dispatch_packs({&x, &y}, [&](auto type, auto lanes) {
    using T = decltype(type);
    const dim3 grid(static_cast<unsigned>(x.shape[0]), divide_up(x.shape[1], kThreads * lanes));
    launch("add", add_kernel<T, lanes>, grid, kThreads, 0, stream, x.as<T>(), x.strides[0],
           y.as<T>(), y.strides[0], x.shape[1]);
  });
}

}  // namespace ft::cuda
