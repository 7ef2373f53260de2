// SPDX-License-Identifier: BSD-3-Clause
// The steps of a decoder_stack as they are added, and what they take of shared memory and scratch.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "cuda/decoder_stack/arguments.h"

namespace ft::cuda::stack {

constexpr const char* kOp = "decoder_stack";
constexpr int kNarrowHeads = 64;  // dimensions of a head, in one instance
constexpr int kWideHeads = 128;   // and in the other

// Where the parts of the scratch lie, in bytes.
struct Scratch {
  int64_t maps, steps, state, buffers, bytes;
};

class Plan {
 public:
  const int num_heads, num_kv_heads, head_dim, hidden_size;

  Plan(int num_heads, int num_kv_heads, int head_dim, int hidden_size);
  void add_linear(const Tensor& weight, const std::optional<Tensor>& bias,
                  const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias,
                  double eps, const std::string& activation, bool is_gated);
  void add_attention(int layer, bool is_cross, const std::optional<Tensor>& relative_bias,
                     const std::optional<Tensor>& cos_sin);

  DType dtype() const { return dtype_; }
  int num_steps() const { return static_cast<int>(steps_.size()); }
  bool has_cross() const { return has_cross_; }
  const float* cos_sin() const { return cos_sin_; }  // of all layers, or null
  int64_t buffer_elements() const { return int64_t{num_columns_} * kMaxTokens; }

  // 0 if this device has no kernel for the steps.
  int max_tokens() const;
  Layout layout_of(int tokens) const;
  int attention_warps() const;
  Scratch scratch() const;
  // Fills the scratch, on the device.
  void write(char* to) const;

 private:
  void add(Step step, int columns);
  bool ends_with_product() const { return !steps_.empty() && steps_.back().kind == Kind::kProduct; }

  std::vector<Step> steps_;
  std::vector<Tensor> weights_;  // of every step; of attention empty
  DType dtype_ = DType::kBFloat16;
  const float* cos_sin_ = nullptr;
  int max_columns_ = 0, max_tile_rows_ = 0, num_columns_ = 0;
  bool is_supported_, has_cross_ = false;
};

}  // namespace ft::cuda::stack
