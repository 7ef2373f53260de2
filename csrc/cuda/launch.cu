// SPDX-License-Identifier: BSD-3-Clause
#include "cuda/launch.h"

namespace ft::cuda {
namespace {

__global__ void probe_kernel() {}

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

int num_multiprocessors() {
  static const int count = [] {
    int device = 0, found = 0;
    check_cuda("probe", cudaGetDevice(&device));
    check_cuda("probe", cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, device));
    return found;
  }();
  return count;
}

}  // namespace ft::cuda
