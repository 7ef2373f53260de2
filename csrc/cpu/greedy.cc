// SPDX-License-Identifier: BSD-3-Clause
// The first of the largest logits of every row [S, V].
#include <utility>

#include "core/parallel.h"
#include "cpu/launchers.h"
#include "cpu/vec.h"

namespace ft::cpu::FT_ISA {
namespace {

float largest(const float* row, int64_t size) {
  vec best = broadcast(row[0]);
  for_lanes(size, [&](int64_t i, int64_t count) {
    best = maximum(best, count == kLanes ? load(row + i) : broadcast(row[i]));
    for (int64_t tail = i + 1; count < kLanes && tail < size; ++tail) {
      best = maximum(best, broadcast(row[tail]));
    }
  });
  float result = best[0];
  for (int lane = 1; lane < kLanes; ++lane) result = best[lane] > result ? best[lane] : result;
  return result;
}

int32_t first_of_largest(const float* row, int64_t size) {
  const float best = largest(row, size);
  int32_t index = 0;
  while (index + 1 < size && !(row[index] == best)) ++index;
  return index;
}

}  // namespace

void greedy(const Tensor& out, const Tensor& logits, const Tensor& slots) {
  check_shape("greedy", "logits", logits, {-1, -1});
  check_dtype("greedy", "logits", logits, DType::kFloat32);
  check_rows("greedy", "logits", logits);
  for (const auto& [name, tensor] : {std::pair{"out", &out}, std::pair{"slots", &slots}}) {
    check_shape("greedy", name, *tensor, {logits.shape[0]});
    check_dtype("greedy", name, *tensor, DType::kInt32);
    check_contiguous("greedy", name, *tensor);
  }
  parallel_for(logits.shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const float* row = logits.as<float>() + s * logits.strides[0];
      out.as<int32_t>()[s] =
          slots.as<int32_t>()[s] < 0 ? 0 : first_of_largest(row, logits.shape[1]);
    }
  });
}

}  // namespace ft::cpu::FT_ISA
