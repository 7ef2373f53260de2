// SPDX-License-Identifier: BSD-3-Clause
#include "core/check.h"

#include <stdexcept>
#include <string>

namespace ft {
namespace {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kInt8:
      return "int8";
    case DType::kUInt8:
      return "uint8";
  }
  return "unknown";
}

std::string list(const int64_t* sizes, int count) {
  std::string text = "[";
  for (int i = 0; i < count; ++i) {
    text += (i ? ", " : "") + (sizes[i] < 0 ? std::string("any") : std::to_string(sizes[i]));
  }
  return text + "]";
}

[[noreturn]] void fail(const char* op, const char* argument, const std::string& what) {
  throw std::invalid_argument(std::string(op) + ": " + argument + " " + what);
}

}  // namespace

void check_shape(const char* op, const char* argument, const Tensor& tensor,
                 std::initializer_list<int64_t> shape) {
  bool equal = tensor.ndim == static_cast<int>(shape.size());
  for (int i = 0; equal && i < tensor.ndim; ++i) {
    const int64_t wanted = shape.begin()[i];
    equal = wanted < 0 || wanted == tensor.shape[i];
  }
  if (!equal) {
    fail(op, argument,
         "has shape " + list(tensor.shape, tensor.ndim) + "; expected " +
             list(shape.begin(), static_cast<int>(shape.size())));
  }
}

void check_dtype(const char* op, const char* argument, const Tensor& tensor, DType dtype) {
  if (tensor.dtype != dtype) {
    fail(op, argument, std::string("is ") + name_of(tensor.dtype) + "; expected " + name_of(dtype));
  }
}

void check_float(const char* op, const char* argument, const Tensor& tensor) {
  if (tensor.dtype > DType::kFloat16) {
    fail(op, argument,
         std::string("is ") + name_of(tensor.dtype) + "; expected float32, bfloat16 or float16");
  }
}

void check_rows(const char* op, const char* argument, const Tensor& tensor) {
  const int last = tensor.ndim - 1;
  if (tensor.ndim > 0 && tensor.shape[last] > 1 && tensor.strides[last] != 1) {
    fail(op, argument, "is not contiguous in its last dimension");
  }
}

void check_contiguous(const char* op, const char* argument, const Tensor& tensor) {
  int64_t stride = 1;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] > 1 && tensor.strides[i] != stride) {
      fail(op, argument, "is not contiguous");
    }
    stride *= tensor.shape[i];
  }
}

void check_that(const char* op, const char* argument, bool holds, const char* requirement) {
  if (!holds) fail(op, argument, requirement);
}

}  // namespace ft
