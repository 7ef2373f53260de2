// SPDX-License-Identifier: BSD-3-Clause
// rms_norm, layer_norm and their forms behind a residual sum, rows [T, H]. A row belongs to one
// block, a short one to one warp; its threads hold it in registers from the load to the store.
// Weights come before the wait for the kernel in front where they fit. Where there are many rows,
// warps take those of up to four packs for each lane, too: more is on its way, and no warp waits
// for another one.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "cuda/row_threads.h"
#include "device/pdl.cuh"
#include "device/row_norm.cuh"

namespace ft::cuda {
namespace {

using device::NormArguments;

constexpr int kShortRows = 8;  // of one block, where a warp is enough for a row
constexpr int kManyRows = 16;  // of a multiprocessor

template <typename T, int kLanes, int kPacks, bool kCentred, bool kAlone>
__global__ void __launch_bounds__(max_row_threads(kLanes, kPacks)) norm_kernel(NormArguments<T> a) {
  using Norm = device::RowNorm<T, kLanes, kPacks, kCentred, kAlone>;
  __shared__ device::NormPartials partial;
  Norm norm(a);
  device::wait_for_predecessor();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= a.num_rows) return;  // whole warps, in blocks without barriers
  typename Norm::Row x;
  x.load(a.x[row], a.size);
  if (a.residual.data != nullptr) {
    typename Norm::Row residual;
    residual.load(a.residual[row], a.size);
    norm.add(a, row, x, residual);
  }
  norm.store(a, row, x, partial);
}

template <typename T, int kLanes, int kPacks, bool kAlone>
void launch_rows(const char* op, const NormArguments<T>& arguments, unsigned threads,
                 int64_t stream) {
  const unsigned rows = threads == 32 ? kShortRows : 1;
  const auto kernel = arguments.bias == nullptr ? norm_kernel<T, kLanes, kPacks, false, kAlone>
                                                : norm_kernel<T, kLanes, kPacks, true, kAlone>;
  launch(op, kernel, divide_up(arguments.num_rows, rows), dim3(threads, rows), 0, stream,
         arguments);
}

template <typename T, int kLanes>
void launch_norm(const char* op, const NormArguments<T>& arguments, int64_t stream) {
  if constexpr (kLanes > 1) {
    const unsigned packs = divide_up(arguments.size, 32 * kLanes);
    const bool is_many = arguments.num_rows > kManyRows * num_multiprocessors();
    if (is_many && packs == 2) return launch_rows<T, kLanes, 2, true>(op, arguments, 32, stream);
    if (is_many && packs == 3) return launch_rows<T, kLanes, 3, true>(op, arguments, 32, stream);
    if (is_many && packs == 4) return launch_rows<T, kLanes, 4, true>(op, arguments, 32, stream);
  }
  dispatch_row<kLanes>(arguments.size, [&](auto packs, unsigned threads) {
    launch_rows<T, kLanes, packs(), false>(op, arguments, threads, stream);
  });
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
         const Tensor& weight, const Tensor* bias, double eps, bool keeps_sum, int64_t stream) {
  check_float(op, "x", x);
  check_shape(op, "x", x, {-1, -1});
  check_matrix(op, "x", x, x);
  check_that(op, "x", x.shape[1] <= kMaxRowSize, "has rows of more than 16384 elements");
  check_matrix(op, "out", out, x);
  if (residual != nullptr) check_matrix(op, "residual", *residual, x);
  check_vector(op, "weight", weight, x);
  if (bias != nullptr) check_vector(op, "bias", *bias, x);
  if (x.shape[0] == 0 || x.shape[1] == 0) return;
  const Tensor& added = residual == nullptr ? x : *residual;
  const Tensor& shift = bias == nullptr ? weight : *bias;
  dispatch_packs({&x, &out, &added, &weight, &shift}, [&](auto type, auto lanes) {
    using T = decltype(type);
    const NormArguments<T> arguments{
        {out.as<T>(), out.strides[0]},
        {x.as<T>(), x.strides[0]},
        {residual == nullptr ? nullptr : added.as<T>(), added.strides[0]},
        weight.as<T>(),
        bias == nullptr ? nullptr : shift.as<T>(),
        static_cast<int>(x.shape[0]),
        static_cast<int>(x.shape[1]),
        static_cast<float>(eps),
        keeps_sum};
    launch_norm<T, lanes>(op, arguments, stream);
  });
}

}  // namespace

void rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, double eps,
              int64_t stream) {
  run("rms_norm", out, x, nullptr, weight, nullptr, eps, false, stream);
}

void add_rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                  double eps, bool keeps_sum, int64_t stream) {
  run("add_rms_norm", out, x, &residual, weight, nullptr, eps, keeps_sum, stream);
}

void layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias,
                double eps, int64_t stream) {
  run("layer_norm", out, x, nullptr, weight, &bias, eps, false, stream);
}

void add_layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual,
                    const Tensor& weight, const Tensor& bias, double eps, bool keeps_sum,
                    int64_t stream) {
  run("add_layer_norm", out, x, &residual, weight, &bias, eps, keeps_sum, stream);
}

}  // namespace ft::cuda
