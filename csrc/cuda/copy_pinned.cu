// SPDX-License-Identifier: BSD-3-Clause
// copy_pinned: words between pinned memory of the host and the device.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "device/pdl.cuh"

namespace ft::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    copy_pinned_kernel(int32_t* target, const int32_t* source, int count) {
  device::wait_for_predecessor_alone();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < count) target[i] = __ldcv(source + i);  // no cache knows what the host has written
  __threadfence();
}

void check(const char* argument, const Tensor& tensor) {
  check_shape("copy_pinned", argument, tensor, {-1});
  check_contiguous("copy_pinned", argument, tensor);
  check_that("copy_pinned", argument,
             tensor.dtype == DType::kInt32 || tensor.dtype == DType::kFloat32,
             "is neither int32 nor float32");
}

}  // namespace

void copy_pinned(const Tensor& target, const Tensor& source, int64_t stream) {
  check("target", target);
  check("source", source);
  check_shape("copy_pinned", "source", source, {target.shape[0]});
  check_dtype("copy_pinned", "source", source, target.dtype);
  check_that("copy_pinned", "source", source.is_cuda != target.is_cuda,
             "lies where the target does");
  const int count = static_cast<int>(target.shape[0]);
  if (count == 0) return;
  launch("copy_pinned", copy_pinned_kernel, (count + kThreads - 1) / kThreads, kThreads, 0, stream,
         target.as<int32_t>(), source.as<int32_t>(), count);
}

}  // namespace ft::cuda
