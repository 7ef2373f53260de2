// SPDX-License-Identifier: BSD-3-Clause
#include "cuda/launch.h"

#include "cuda/launchers.h"
#include "device/wgmma.cuh"

namespace ft::cuda {
namespace {

__global__ void probe_kernel() {}

// Has shared memory where its code has the products.
__global__ void warpgroup_probe_kernel() {
#ifdef FT_WGMMA
  __shared__ volatile int mark;
  mark = 0;
#endif
}

}  // namespace

bool has_programmatic_launch() {
  // Code for an older architecture lacks the instructions that make the early start safe.
  static const bool supported = [] {
    cudaFuncAttributes attributes{};
    check_cuda("probe", cudaFuncGetAttributes(&attributes, probe_kernel));
    return attributes.binaryVersion >= 90;
  }();
  return supported;
}

bool has_warpgroup_products() {
  // Code for other architectures lacks them, that for newer ones too.
  static const bool supported = [] {
    cudaFuncAttributes attributes{};
    check_cuda("probe", cudaFuncGetAttributes(&attributes, warpgroup_probe_kernel));
    return attributes.sharedSizeBytes > 0;
  }();
  return supported;
}

int num_multiprocessors() {
  static const int count = [] {
    int device = 0, found = 0;
    check_cuda("probe", cudaGetDevice(&device));
    check_cuda("probe", cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, device));
    return found;
  }();
  return count;
}

void set_device(int index) { check_cuda("set_device", cudaSetDevice(index)); }

std::vector<int> architectures() {
  std::vector<int> list = {__CUDA_ARCH_LIST__};
  for (int& architecture : list) architecture /= 10;
  return list;
}

bool has_code_for_device() {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();  // or the next launch would report it
    return false;
  }
  check_cuda("probe", error);
  return true;
}

}  // namespace ft::cuda
