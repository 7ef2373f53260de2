// SPDX-License-Identifier: BSD-3-Clause
#include "cuda/tensor_map.h"

#include "cuda/launch.h"

namespace ft::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// From the driver that the runtime has loaded, so that nothing links against it.
Encode encode_function(const char* op) {
  static const Encode function = [op] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check_cuda(op, cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                    cudaEnableDefault, &result));
    if (result != cudaDriverEntryPointSuccess) {
      throw std::runtime_error(std::string(op) +
                               ": the driver has no tensor maps; CUDA 12 is needed");
    }
    return reinterpret_cast<Encode>(found);
  }();
  return function;
}

int64_t element_bytes(DType dtype) { return dtype == DType::kUInt8 ? 1 : 2; }

CUtensorMapDataType type_of(DType dtype) {
  switch (dtype) {
    case DType::kUInt8:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    case DType::kBFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    default:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  }
}

// Dimensions of a tensor, the innermost first, and how much of each a box has.
class Dimensions {
 public:
  void add(int64_t size, int64_t stride_bytes, int of_box) {
    sizes_[rank_] = static_cast<cuuint64_t>(size);
    strides_[rank_] = static_cast<cuuint64_t>(stride_bytes);
    box_[rank_++] = static_cast<cuuint32_t>(of_box);
  }

  CUtensorMap map(const char* op, DType dtype, void* data,
                  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) const {
    const cuuint32_t steps[kMostRank] = {1, 1, 1, 1, 1};
    // Of 256 bytes, a common choice, what is read once comes 6 % slower (docs/performance.md).
    constexpr auto kPromotion = CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
    CUtensorMap map;
    const CUresult result = encode_function(op)(
        &map, type_of(dtype), rank_, data, sizes_, strides_ + 1, box_, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, kPromotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) {
      throw std::runtime_error(std::string(op) + ": the driver refuses a tensor map, error " +
                               std::to_string(static_cast<int>(result)));
    }
    return map;
  }

 private:
  static constexpr int kMostRank = 5;
  cuuint64_t sizes_[kMostRank], strides_[kMostRank];
  cuuint32_t box_[kMostRank], rank_ = 0;
};

}  // namespace

CUtensorMap box_map(const char* op, const Tensor& matrix, int box_rows, int box_columns,
                    int num_boxes, int num_parts) {
  const int64_t part_rows = matrix.shape[0] / num_parts, bytes = element_bytes(matrix.dtype);
  const int64_t row_bytes = matrix.strides[0] * bytes;
  Dimensions dimensions;
  dimensions.add(box_columns, bytes, box_columns);
  dimensions.add(part_rows, row_bytes, box_rows);
  if (num_parts > 1) dimensions.add(num_parts, part_rows * row_bytes, num_parts);
  dimensions.add(matrix.shape[1] / box_columns, box_columns * bytes, num_boxes);
  return dimensions.map(op, matrix.dtype, matrix.data);
}

CUtensorMap result_map(const char* op, const Tensor& matrix, int box_rows, int box_columns) {
  const int64_t bytes = element_bytes(matrix.dtype);
  Dimensions dimensions;
  dimensions.add(matrix.shape[1], bytes, box_columns);
  dimensions.add(matrix.shape[0], matrix.strides[0] * bytes, box_rows);
  return dimensions.map(
      op, matrix.dtype, matrix.data,
      box_columns == kStripColumns ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE);
}

CUtensorMap query_map(const char* op, const Tensor& q, int box_tokens) {
  const int64_t bytes = element_bytes(q.dtype);
  Dimensions dimensions;
  dimensions.add(q.shape[2], bytes, kStripColumns);
  dimensions.add(q.shape[1], q.strides[1] * bytes, 1);
  dimensions.add(q.shape[0], q.strides[0] * bytes, box_tokens);
  return dimensions.map(op, q.dtype, q.data);
}

CUtensorMap cache_map(const char* op, const Tensor& cache, int box_keys) {
  const int64_t bytes = element_bytes(cache.dtype), key_bytes = cache.strides[2] * bytes;
  const int strips = static_cast<int>(cache.shape[3] / kStripColumns);
  Dimensions dimensions;
  dimensions.add(kStripColumns, bytes, kStripColumns);
  dimensions.add(kCacheGroupKeys, key_bytes, kCacheGroupKeys);
  dimensions.add(strips, kStripColumns * bytes, strips);
  dimensions.add(cache.shape[1] * cache.shape[2] / kCacheGroupKeys, kCacheGroupKeys * key_bytes,
                 box_keys / kCacheGroupKeys);
  dimensions.add(cache.shape[0], cache.strides[0] * bytes, 1);
  return dimensions.map(op, cache.dtype, cache.data);
}

}  // namespace ft::cuda
