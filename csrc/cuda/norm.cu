// SPDX-License-Identifier: BSD-3-Clause
// rms_norm, layer_norm and their forms behind a residual sum, rows [T, H]. A row belongs to one
// block, a short one to one warp; its threads hold it in registers from the load to the store.
// Weights come before the wait for the kernel in front where they fit.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

using device::Pack;

constexpr int kMaxSize = 16384;
constexpr int kShortRows = 8;  // of one block, where a warp is enough for a row

template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  __device__ T* operator[](int64_t row) const { return data + row * stride; }
};

template <typename T>
struct Arguments {
  Rows<T> out, x, residual;  // residual: null where there is no sum before the norm
  const T *weight, *bias;    // bias: null where the norm does not subtract the mean
  int num_rows, size;
  float eps;
};

// What a thread does: the packs threadIdx.x, threadIdx.x + blockDim.x, ... of a row.
template <typename T, int kLanes, int kPacks>
struct Slice {
  Pack<T, kLanes> packs[kPacks];

  // Calls body(i, at): pack i of this thread starts at element `at` of the row.
  template <typename Body>
  static __device__ __forceinline__ void each(int size, Body body) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int at = (threadIdx.x + i * blockDim.x) * kLanes;
      if (at < size) body(i, at);
    }
  }

  __device__ __forceinline__ void load(const T* row, int size) {
    each(size, [&](int i, int at) { packs[i] = device::load_pack<kLanes>(row + at); });
  }

  // The sum over the whole row of f(element), for every thread. `partial`: shared, used by nobody
  // else.
  template <typename Function>
  __device__ __forceinline__ float sum(int size, float* partial, Function f) const {
    float total = 0.0f;
    each(size, [&](int i, int) {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) total += f(device::to_float(packs[i].lanes[lane]));
    });
    return blockDim.x == 32 ? device::warp_sum(total) : device::block_sum(total, partial);
  }
};

template <typename T, int kLanes>
__device__ __forceinline__ Pack<T, kLanes> sum_of(const Pack<T, kLanes>& a,
                                                  const Pack<T, kLanes>& b) {
  Pack<T, kLanes> result;
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) {
    result.lanes[lane] =
        device::from_float<T>(device::to_float(a.lanes[lane]) + device::to_float(b.lanes[lane]));
  }
  return result;
}

template <typename T, int kLanes, int kPacks, bool kCentred>
__global__ void __launch_bounds__(kPacks <= 2 ? 512 : 1024) norm_kernel(Arguments<T> a) {
  __shared__ float partial[2][device::kMaxWarps];
  Slice<T, kLanes, kPacks> x, weight, bias;
  constexpr bool kEarly = kPacks <= 2;  // more do not fit beside the row
  if (kEarly) weight.load(a.weight, a.size);
  if (kEarly && kCentred) bias.load(a.bias, a.size);
  device::wait_for_predecessor();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= a.num_rows) return;  // whole warps, in blocks without barriers
  x.load(a.x[row], a.size);
  if (a.residual.data != nullptr) {
    Slice<T, kLanes, kPacks> residual;
    residual.load(a.residual[row], a.size);
    x.each(a.size, [&](int i, int at) {
      x.packs[i] = sum_of(residual.packs[i], x.packs[i]);
      device::store_pack(a.residual[row] + at, x.packs[i]);
    });
  }
  float mean = 0.0f;
  if (kCentred) mean = x.sum(a.size, partial[0], [](float value) { return value; }) / a.size;
  const float variance = x.sum(a.size, partial[1], [&](float value) {
    return (value - mean) * (value - mean);
  }) / a.size;
  const float scale = rsqrtf(variance + a.eps);
  x.each(a.size, [&](int i, int at) {
    if (!kEarly) weight.packs[i] = device::load_pack<kLanes>(a.weight + at);
    if (!kEarly && kCentred) bias.packs[i] = device::load_pack<kLanes>(a.bias + at);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      float value = (device::to_float(x.packs[i].lanes[lane]) - mean) * scale *
                    device::to_float(weight.packs[i].lanes[lane]);
      if (kCentred) value += device::to_float(bias.packs[i].lanes[lane]);
      x.packs[i].lanes[lane] = device::from_float<T>(value);
    }
    device::store_pack(a.out[row] + at, x.packs[i]);
  });
}

template <typename T, int kLanes, int kPacks>
void launch_norm(const char* op, const Arguments<T>& arguments, int64_t stream) {
  const unsigned packs = divide_up(arguments.size, kLanes);
  const unsigned threads = 32 * divide_up(packs, 32 * kPacks);
  const unsigned rows = threads == 32 ? kShortRows : 1;
  const auto kernel = arguments.bias == nullptr ? norm_kernel<T, kLanes, kPacks, false>
                                                : norm_kernel<T, kLanes, kPacks, true>;
  launch(op, kernel, divide_up(arguments.num_rows, rows), dim3(threads, rows), 0, stream,
         arguments);
}

// A pack or two for each thread: the row's way through the block is then short, which is all that
// counts when there are few rows, and many rows keep enough loads in flight by their number.
template <typename T, int kLanes>
void choose_packs(const char* op, const Arguments<T>& arguments, int64_t stream) {
  if constexpr (kLanes == 1) {
    launch_norm<T, 1, 16>(op, arguments, stream);
  } else if (arguments.size <= 512 * kLanes) {
    launch_norm<T, kLanes, 1>(op, arguments, stream);
  } else if (arguments.size <= 1024 * kLanes) {
    launch_norm<T, kLanes, 2>(op, arguments, stream);
  } else {
    launch_norm<T, kLanes, 4>(op, arguments, stream);
  }
}

void check_vector(const char* op, const char* argument, const Tensor& vector, const Tensor& x) {
  check_on_gpu(op, argument, vector);
  check_shape(op, argument, vector, {x.shape[1]});
  check_dtype(op, argument, vector, x.dtype);
  check_rows(op, argument, vector);
}

void check_matrix(const char* op, const char* argument, const Tensor& matrix, const Tensor& x) {
  check_on_gpu(op, argument, matrix);
  check_shape(op, argument, matrix, {x.shape[0], x.shape[1]});
  check_dtype(op, argument, matrix, x.dtype);
  check_rows(op, argument, matrix);
}

void run(const char* op, const Tensor& out, const Tensor& x, const Tensor* residual,
         const Tensor& weight, const Tensor* bias, double eps, int64_t stream) {
  check_float(op, "x", x);
  check_shape(op, "x", x, {-1, -1});
  check_matrix(op, "x", x, x);
  check_that(op, "x", x.shape[1] <= kMaxSize, "has rows of more than 16384 elements");
  check_matrix(op, "out", out, x);
  if (residual != nullptr) check_matrix(op, "residual", *residual, x);
  check_vector(op, "weight", weight, x);
  if (bias != nullptr) check_vector(op, "bias", *bias, x);
  if (x.shape[0] == 0 || x.shape[1] == 0) return;
  const Tensor& added = residual == nullptr ? x : *residual;
  const Tensor& shift = bias == nullptr ? weight : *bias;
  dispatch_packs({&x, &out, &added, &weight, &shift}, [&](auto type, auto lanes) {
    using T = decltype(type);
    const Arguments<T> arguments{{out.as<T>(), out.strides[0]},
                                 {x.as<T>(), x.strides[0]},
                                 {residual == nullptr ? nullptr : added.as<T>(), added.strides[0]},
                                 weight.as<T>(),
                                 bias == nullptr ? nullptr : shift.as<T>(),
                                 static_cast<int>(x.shape[0]),
                                 static_cast<int>(x.shape[1]),
                                 static_cast<float>(eps)};
    choose_packs<T, lanes>(op, arguments, stream);
  });
}

}  // namespace

void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, double eps,
              int64_t stream) {
  run("rms_norm", out, x, nullptr, weight, nullptr, eps, stream);
}

void add_rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, int64_t stream) {
  run("add_rms_norm", out, x, &residual, weight, nullptr, eps, stream);
}

void layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias,
                double eps, int64_t stream) {
  run("layer_norm", out, x, nullptr, weight, &bias, eps, stream);
}

void add_layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual,
                    const Tensor& weight, const Tensor& bias, double eps, int64_t stream) {
  run("add_layer_norm", out, x, &residual, weight, &bias, eps, stream);
}

}  // namespace ft::cuda
