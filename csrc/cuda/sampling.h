// SPDX-License-Identifier: BSD-3-Clause
// What the sampling kernels share: the tables of ops/sampling.py and the checks of common
// arguments.
#pragma once

#include "cuda/launch.h"

namespace ft::cuda {

// Rows of the tables: SAMPLING_FLOATS and SAMPLING_INTEGERS.
enum FloatRow {
  kTemperature,
  kTopP,
  kMinP,
  kRepetition,
  kPresence,
  kFrequency,
  kTopPDecay,
  kTopPMin,
  kFloatRows
};
enum IntegerRow {
  kTopK,
  kPromptLen,
  kFirstEnd,
  kNumBadWords,
  kNumEndIds,
  kWantsLogprob,
  kTopPResetId,
  kNgramSize,
  kNumBiases,
  kIntegerRows
};

struct SamplingTables {
  const float* floats;
  const int32_t* integers;
  int num_slots;

#ifdef __CUDACC__
  __device__ float at(FloatRow row, int slot) const { return floats[row * num_slots + slot]; }
  __device__ int at(IntegerRow row, int slot) const { return integers[row * num_slots + slot]; }
#endif
};

// Blocks that share a row, where there are clusters.
constexpr int kClusterBlocks = 8;

// What can launch a kernel early has them too.
inline bool has_clusters() { return has_programmatic_launch(); }

// The row's logits are at logits + row * stride.
struct Logits {
  float* data;
  int64_t stride;
  int vocab_size;
};

inline void check_vector(const char* op, const char* argument, const Tensor& tensor, int64_t size,
                         DType dtype) {
  check_on_gpu(op, argument, tensor);
  check_shape(op, argument, tensor, {size});
  check_dtype(op, argument, tensor, dtype);
  check_contiguous(op, argument, tensor);
}

// The token pool: slots [slots, positions].
struct TokenPool {
  const int32_t* tokens;  // written by the step before: no read-only loads
  int64_t stride;

#ifdef __CUDACC__
  __device__ const int32_t* row(int slot) const { return tokens + slot * stride; }
#endif
};

inline TokenPool check_token_pool(const char* op, const Tensor& token_pool, int64_t num_slots) {
  check_on_gpu(op, "token_pool", token_pool);
  check_shape(op, "token_pool", token_pool, {num_slots, -1});
  check_dtype(op, "token_pool", token_pool, DType::kInt32);
  check_rows(op, "token_pool", token_pool);
  return {token_pool.as<int32_t>(), token_pool.strides[0]};
}

// Logits [S, V], and what says of each row whether it counts, [S].
inline Logits check_logits(const char* op, const Tensor& logits, const Tensor& rows,
                           const char* rows_argument = "slots") {
  check_on_gpu(op, "logits", logits);
  check_shape(op, "logits", logits, {-1, -1});
  check_dtype(op, "logits", logits, DType::kFloat32);
  check_rows(op, "logits", logits);
  check_that(op, "logits", logits.shape[1] > 0 && logits.shape[1] <= 1 << 24,
             "needs a vocabulary of 1 to 2^24 tokens");
  check_that(op, "logits", logits.shape[0] < 1 << 16, "has more than 65535 rows");
  check_vector(op, rows_argument, rows, logits.shape[0], DType::kInt32);
  return {logits.as<float>(), logits.strides[0], static_cast<int>(logits.shape[1])};
}

inline const int32_t* check_integers(const char* op, const Tensor& integers) {
  check_on_gpu(op, "integers", integers);
  check_shape(op, "integers", integers, {kIntegerRows, -1});
  check_dtype(op, "integers", integers, DType::kInt32);
  check_contiguous(op, "integers", integers);
  return integers.as<int32_t>();
}

inline SamplingTables check_tables(const char* op, const Tensor& floats, const Tensor& integers) {
  const int32_t* const checked = check_integers(op, integers);
  check_on_gpu(op, "floats", floats);
  check_shape(op, "floats", floats, {kFloatRows, integers.shape[1]});
  check_dtype(op, "floats", floats, DType::kFloat32);
  check_contiguous(op, "floats", floats);
  return {floats.as<float>(), checked, static_cast<int>(integers.shape[1])};
}

}  // namespace ft::cuda
