// SPDX-License-Identifier: BSD-3-Clause
// expand_int8: weights [N, K] out of packed int8 and a factor for each row. One thread makes one
// pack.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "device/int8.cuh"
#include "device/pdl.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

constexpr int kThreads = 256;

// Grid: rows, packs of a row. `out` may still be read by a kernel in front, weights are never
// written.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    expand_int8_kernel(T* out, int64_t out_stride, const uint8_t* weight, int64_t weight_stride,
                       const float* scale, int columns) {
  const int64_t row = blockIdx.x;
  const int at = (blockIdx.y * kThreads + threadIdx.x) * kLanes;
  device::Pack<T, kLanes> expanded;
  if (at < columns) {
    const float factor = scale[row];
    const uint8_t* const from = weight + row * weight_stride;
    const auto bytes = device::load_pack<kLanes>(from + at);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint8_t with_sign =
          kLanes == 1 ? from[device::sign_byte(at)] : bytes.lanes[device::sign_byte(lane)];
      const float value = device::unpacked(bytes.lanes[lane], with_sign);
      expanded.lanes[lane] = device::from_float<T>(value * factor);
    }
  }
  device::wait_for_predecessor();
  if (at < columns) device::store_pack(out + row * out_stride + at, expanded);
}

}  // namespace

void expand_int8(const Tensor& out, const Tensor& weight, const Tensor& scale, int64_t stream) {
  const char* const op = "expand_int8";
  check_float(op, "out", out);
  check_shape(op, "out", out, {-1, -1});
  check_rows(op, "out", out);
  check_on_gpu(op, "out", out);
  check_shape(op, "weight", weight, {out.shape[0], out.shape[1]});
  check_dtype(op, "weight", weight, DType::kUInt8);
  check_that(op, "weight", weight.shape[1] % device::kPackedWeights == 0,
             "has rows whose length is no multiple of 4");
  check_rows(op, "weight", weight);
  check_on_gpu(op, "weight", weight);
  check_shape(op, "scale", scale, {out.shape[0]});
  check_dtype(op, "scale", scale, DType::kFloat32);
  check_contiguous(op, "scale", scale);
  check_on_gpu(op, "scale", scale);
  if (out.shape[0] == 0 || out.shape[1] == 0) return;
  dispatch_packs({&out}, [&](auto type, auto lanes) {
    using T = decltype(type);
    const auto run = [&](auto all_lanes) {
      const dim3 grid(static_cast<unsigned>(out.shape[0]),
                      divide_up(out.shape[1], kThreads * all_lanes));
      launch(op, expand_int8_kernel<T, all_lanes>, grid, kThreads, 0, stream, out.as<T>(),
             out.strides[0], weight.as<uint8_t>(), weight.strides[0], scale.as<float>(),
             static_cast<int>(out.shape[1]));
    };
    has_packs<uint8_t>(weight, lanes) ? run(lanes) : run(std::integral_constant<int, 1>{});
  });
}

}  // namespace ft::cuda
