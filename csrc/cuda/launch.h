// SPDX-License-Identifier: BSD-3-Clause
// What every CUDA launcher needs on the host: the stream, the launch check, the type dispatch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "core/check.h"
#include "core/tensor.h"

namespace ft::cuda {

inline cudaStream_t stream_of(int64_t stream) { return reinterpret_cast<cudaStream_t>(stream); }

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(op) + ": " + cudaGetErrorString(error));
  }
}

inline void check_on_gpu(const char* op, const char* argument, const Tensor& tensor) {
  check_that(op, argument, tensor.is_cuda, "is not on the GPU");
}

// Calls body with a value of the storage type of `tensor`; the launcher has checked that it is one.
template <typename Body>
void dispatch(const Tensor& tensor, Body body) {
  switch (tensor.dtype) {
    case DType::kFloat32: return body(float{});
    case DType::kBFloat16: return body(__nv_bfloat16{});
    default: return body(__half{});
  }
}

}  // namespace ft::cuda
