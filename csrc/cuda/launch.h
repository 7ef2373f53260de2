// SPDX-License-Identifier: BSD-3-Clause
// What every CUDA launcher needs on the host: the launch with its check, the type dispatch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/check.h"
#include "core/tensor.h"

namespace ft::cuda {

inline void check_cuda(const char* op, cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(op) + ": " + cudaGetErrorString(error));
  }
}

// Whether the device and the code that runs on it know programmatic dependent launch
// (device/pdl.cuh).
bool has_programmatic_launch();

// Whether they know the products of warpgroups (device/wgmma.cuh).
bool has_warpgroup_products();

// Of the current device; one process uses one device.
int num_multiprocessors();

// As `launch`; on devices of sm_90 and later `cluster` neighbouring blocks along x form a cluster.
template <typename... Parameters, typename... Arguments>
void launch_clusters(const char* op, void (*kernel)(Parameters...), unsigned cluster, dim3 grid,
                     dim3 block, size_t shared_bytes, int64_t stream, Arguments... arguments) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = reinterpret_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  config.numAttrs = !has_programmatic_launch() ? 0 : cluster > 1 ? 2 : 1;
  check_cuda(op, cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// A launch of `kernel` that may start before the kernel in front of it has ended.
template <typename... Parameters, typename... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, int64_t stream, Arguments... arguments) {
  launch_clusters(op, kernel, 1, grid, block, shared_bytes, stream, arguments...);
}

// Lets `kernel` use more than 48 KiB of dynamic shared memory; once per kernel.
template <typename Kernel>
void allow_shared(const char* op, Kernel* kernel, size_t bytes) {
  check_cuda(op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(bytes)));
}

inline void check_on_gpu(const char* op, const char* argument, const Tensor& tensor) {
  check_that(op, argument, tensor.is_cuda, "is not on the GPU");
}

inline void check_aligned(const char* op, const char* argument, const Tensor& tensor) {
  check_that(op, argument, reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0,
             "does not start at a multiple of 16 bytes");
}

// What is copied 16 bytes at a time, so many elements: a matrix whose rows start at multiples of
// that and are as long.
inline void check_16_byte_rows(const char* op, const char* argument, const Tensor& tensor,
                               int64_t in_16_bytes) {
  check_on_gpu(op, argument, tensor);
  check_rows(op, argument, tensor);
  check_aligned(op, argument, tensor);
  check_that(op, argument, tensor.strides[0] % in_16_bytes == 0,
             "has rows that do not start at multiples of 16 bytes");
  check_that(op, argument, tensor.shape[1] % in_16_bytes == 0,
             "has rows whose length is no multiple of 16 bytes");
}

// Calls body with a value of the storage type of `tensor`; the launcher has checked that it is one.
template <typename Body>
void dispatch(const Tensor& tensor, Body body) {
  switch (tensor.dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kBFloat16:
      return body(__nv_bfloat16{});
    default:
      return body(__half{});
  }
}

inline bool has_half_type(const Tensor& tensor) {
  return tensor.dtype == DType::kBFloat16 || tensor.dtype == DType::kFloat16;
}

// The same of such a tensor alone.
template <typename Body>
void dispatch_half(const Tensor& tensor, Body body) {
  if (tensor.dtype == DType::kBFloat16) return body(__nv_bfloat16{});
  body(__half{});
}

}  // namespace ft::cuda
