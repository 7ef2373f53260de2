// SPDX-License-Identifier: BSD-3-Clause
// The shared memory of the current device; one process uses one device.
#pragma once

#include "cuda/launch.h"

namespace ft::cuda {

inline size_t device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check_cuda("probe", cudaGetDevice(&device));
  check_cuda("probe", cudaDeviceGetAttribute(&value, attribute, device));
  return static_cast<size_t>(value);
}

inline size_t shared_bytes_per_block() {
  static const size_t bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return bytes;
}

inline size_t shared_bytes_per_multiprocessor() {
  static const size_t bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  return bytes;
}

}  // namespace ft::cuda
