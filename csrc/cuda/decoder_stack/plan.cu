// SPDX-License-Identifier: BSD-3-Clause
#include "cuda/decoder_stack/plan.h"

#include <algorithm>

#include "cuda/activation.cuh"
#include "cuda/attention/limits.h"
#include "cuda/decoder_stack/attention_memory.cuh"
#include "cuda/decoder_stack/launch.h"
#include "cuda/skinny_linear.h"
#include "device/lamport.cuh"

namespace ft::cuda::stack {
namespace {

constexpr int kMinStages = 3;      // with fewer the ring cannot keep the memory busy
constexpr int kMaxNorms = 2;       // one behind the other: more take longer than launches
constexpr int kMaxWideTokens = 1;  // of rows of which a thread has two packs: the same

int rounded(int64_t size, int64_t to) { return static_cast<int>((size + to - 1) / to * to); }

bool has_instance(int head_dim) { return head_dim == kNarrowHeads || head_dim == kWideHeads; }

AttentionRoom room_of(const Plan& plan) {
  const int heads = item_heads(plan.num_heads / plan.num_kv_heads);
  return plan.head_dim == kNarrowHeads ? attention_room<kNarrowHeads>(heads)
                                       : attention_room<kWideHeads>(heads);
}

bool fits_product(const Tensor& weight, const std::optional<Tensor>& bias, bool is_gated) {
  return weight.is_cuda && has_half_type(weight) && fits_sm90(weight) && weight.strides[1] == 1 &&
         weight.strides[0] % 8 == 0 && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0 &&
         weight.shape[0] % (is_gated ? 2 * kGroupRows : kGroupRows) == 0 &&
         weight.shape[1] % kStepColumns == 0 && (!bias || bias->dtype == weight.dtype);
}

// The rows of the weight by blocks and tiles, and how many strips of 64 columns a stage holds.
Load load_of(const Tensor& weight, bool is_gated) {
  Load load;
  load.share = sm90::Share(weight.shape[0]);
  load.share.divide(kTileRows);
  load.fewer_groups = load.share.tile_groups();
  load.strips = static_cast<int>(weight.shape[1] * 2 / kBoxRowBytes);
  load.parts = is_gated ? 2 : 1;
  const int box_bytes = load.share.max_tile_groups() * kGroupBytes;
  const int most = kStageBytes / box_bytes / sm90::kStepBoxes * sm90::kStepBoxes;
  const int units = (load.strips + most - 1) / most;
  load.boxes = rounded((load.strips + units - 1) / units, sm90::kStepBoxes);
  return load;
}

Maps maps_of(const Tensor& weight, const Load& load) {
  Maps maps;
  for (int i = 0; i < 2; ++i) {
    const int rows = (load.fewer_groups + i) * kGroupRows;
    if (rows == 0) continue;
    maps.weight[i] =
        box_map(kOp, weight, rows / load.parts, kBoxRowBytes / 2, load.boxes, load.parts);
  }
  return maps;
}

}  // namespace

Plan::Plan(int num_heads, int num_kv_heads, int head_dim, int hidden_size)
    : num_heads(num_heads),
      num_kv_heads(num_kv_heads),
      head_dim(head_dim),
      hidden_size(hidden_size) {
  check_that(kOp, "num_heads", num_kv_heads > 0 && num_heads % num_kv_heads == 0,
             "is no multiple of num_kv_heads");
  is_supported_ = has_programmatic_launch() && has_instance(head_dim) &&
                  hidden_size % kStepColumns == 0 && hidden_size <= kMaxHidden;
}

// Behind the last step, of whose values it takes all.
void Plan::add(Step step, int columns) {
  if (!steps_.empty()) {
    Step& last = steps_.back();
    step.in = last.out = num_columns_ * kMaxTokens;
    step.in_columns = last.out_columns;
    const int64_t packs = std::max(1, step.in_columns / 8);
    step.in_packs_inverse = static_cast<unsigned>(((int64_t{1} << 32) + packs - 1) / packs);
    num_columns_ += last.out_columns;
  }
  step.out_columns = columns;
  steps_.push_back(step);
}

void Plan::add_linear(const Tensor& weight, const std::optional<Tensor>& bias,
                      const std::optional<Tensor>& norm_weight,
                      const std::optional<Tensor>& norm_bias, double eps,
                      const std::string& activation, bool is_gated) {
  check_shape(kOp, "weight", weight, {-1, -1});
  if (bias) check_shape(kOp, "bias", *bias, {weight.shape[0]});
  for (const auto& norm : {norm_weight, norm_bias}) {
    if (norm) check_shape(kOp, "norm", *norm, {hidden_size});
    if (norm) check_dtype(kOp, "norm", *norm, weight.dtype);
  }
  if (steps_.empty()) dtype_ = weight.dtype;
  const int columns = static_cast<int>(weight.shape[0]) / (is_gated ? 2 : 1);
  const int expected = norm_weight ? hidden_size : steps_.empty() ? 0 : steps_.back().out_columns;
  check_that(kOp, "weight", weight.shape[1] == expected,
             "has other columns than there are values before it");
  is_supported_ = is_supported_ && weight.dtype == dtype_ && fits_product(weight, bias, is_gated) &&
                  (norm_weight || !steps_.empty());
  weights_.push_back(weight);
  Step step;
  if (is_supported_) step.load = load_of(weight, is_gated);
  if (is_wide_sm90(weight, is_gated)) step.slices = kWideSlices;
  step.activation =
      activation.empty() ? Step::kNone : static_cast<int>(activation_of(kOp, activation));
  step.eps = static_cast<float>(eps);
  step.bias = bias ? bias->data : nullptr;
  step.norm_weight = norm_weight ? norm_weight->data : nullptr;
  step.norm_bias = norm_bias ? norm_bias->data : nullptr;
  add(step, columns);
  if (!norm_weight) max_columns_ = std::max(max_columns_, static_cast<int>(weight.shape[1]));
  if (is_supported_) {
    max_tile_rows_ = std::max(max_tile_rows_, step.load.share.max_tile_groups() * kGroupRows);
  }
}

void Plan::add_attention(int layer, bool is_cross, const std::optional<Tensor>& relative_bias,
                         const std::optional<Tensor>& cos_sin) {
  const int heads = num_heads + (is_cross ? 0 : 2 * num_kv_heads);
  check_that(kOp, "is_cross", ends_with_product() && steps_.back().out_columns == heads * head_dim,
             "does not go with the values before it");
  Step step;
  step.kind = is_cross ? Kind::kCrossAttention : Kind::kSelfAttention;
  step.layer = layer;
  if (relative_bias) {
    check_dtype(kOp, "relative_bias", *relative_bias, DType::kFloat32);
    check_shape(kOp, "relative_bias", *relative_bias, {num_heads, -1});
    check_contiguous(kOp, "relative_bias", *relative_bias);
    step.relative_bias = relative_bias->as<float>();
    step.relative_reach = static_cast<int>(relative_bias->shape[1]) - 1;
  }
  if (cos_sin) {
    check_dtype(kOp, "cos_sin", *cos_sin, DType::kFloat32);
    check_shape(kOp, "cos_sin", *cos_sin, {-1, -1});
    check_contiguous(kOp, "cos_sin", *cos_sin);
    // A lane of attention has both elements of a pair where pairs are half of a whole head apart.
    is_supported_ = is_supported_ && cos_sin->shape[1] == head_dim;
    is_supported_ = is_supported_ && (cos_sin_ == nullptr || cos_sin_ == cos_sin->as<float>());
    cos_sin_ = cos_sin->as<float>();
  }
  has_cross_ = has_cross_ || is_cross;
  weights_.push_back(Tensor{});
  add(step, num_heads * head_dim);
}

Layout Plan::layout_of(int tokens) const {
  const AttentionRoom room = room_of(*this);
  Layout layout{};
  layout.x_stride = max_columns_ + 8;  // rows that meet in no bank
  layout.normed_stride = hidden_size + 8;
  layout.sum_stride = rounded(max_tile_rows_, 16) + 4;
  // Behind the ring, whose size follows from that of all others.
  int used = 0;
  const auto place = [&](int64_t bytes) {
    const int at = used;
    used += rounded(bytes, 128);
    return at;
  };
  const int items_bytes = Items::bytes(tokens);
  layout.scratch = place(std::max<int64_t>(room.scratch_bytes, 2L * tokens * layout.x_stride));
  layout.normed = place(2L * tokens * layout.normed_stride);
  layout.residual = place(2L * tokens * hidden_size);
  layout.sums = place(2L * kSlices * tokens * layout.sum_stride * 4);
  layout.partials = place(2 * kMaxRowWarps * 4);
  layout.progress = place(kProgressBytes);
  layout.angles = place(cos_sin_ == nullptr ? 0 : int64_t{tokens} * head_dim * 4);
  layout.self_items = place(items_bytes);
  layout.cross_items = has_cross_ ? place(items_bytes) : layout.self_items;
  layout.calls = place(2 * sizeof(Call<__half>));
  layout.headers = place(kHeaders * sizeof(Step));
  layout.barriers = place(2 * kMaxStages * sizeof(uint64_t));
  const int room_for_ring = static_cast<int>(shared_bytes_per_block()) - sm90::kAlignment - used;
  layout.stages = std::clamp(room_for_ring / kStageBytes, 0, kMaxStages);
  const int ring = layout.stages * kStageBytes;
  for (int* at : {&layout.scratch, &layout.normed, &layout.residual, &layout.sums, &layout.partials,
                  &layout.progress, &layout.angles, &layout.self_items, &layout.cross_items,
                  &layout.calls, &layout.headers, &layout.barriers}) {
    *at += ring;
  }
  layout.bytes = sm90::kAlignment + ring + used;
  return layout;
}

int Plan::max_tokens() const {
  if (!is_supported_ || !ends_with_product()) return 0;
  const int row_warps = (hidden_size / 8 + 31) / 32;
  const int most = row_warps > kWarps ? kMaxWideTokens : kMaxNorms * (kWarps / row_warps);
  int tokens = std::min(kMaxTokens, most);
  while (tokens > 0 && layout_of(tokens).stages < kMinStages) --tokens;
  return tokens;
}

int Plan::attention_warps() const { return room_of(*this).warps; }

Scratch Plan::scratch() const {
  Scratch at{};
  at.steps = num_steps() * static_cast<int64_t>(sizeof(Maps));
  at.state = at.steps + num_steps() * static_cast<int64_t>(sizeof(Step));
  at.buffers = rounded(at.state + static_cast<int64_t>(sizeof(State)), 128);
  at.bytes = at.buffers + 2 * buffer_elements() * 2;
  return at;
}

void Plan::write(char* to) const {
  std::vector<Maps> maps(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].kind == Kind::kProduct) maps[i] = maps_of(weights_[i], steps_[i].load);
  }
  const auto copy = [&](int64_t at, const auto& from) {
    check_cuda(kOp, cudaMemcpy(to + at, from.data(), from.size() * sizeof(from[0]),
                               cudaMemcpyHostToDevice));
  };
  const Scratch at = scratch();
  copy(at.maps, maps);
  copy(at.steps, steps_);
  check_cuda(kOp, cudaMemset(to + at.state, 0, at.buffers - at.state));
  static_assert(device::kAbsent == 0xffffffffu, "cudaMemset fills with one byte");
  check_cuda(kOp, cudaMemset(to + at.buffers, 0xff, at.bytes - at.buffers));
  check_cuda(kOp, cudaDeviceSynchronize());
}

}  // namespace ft::cuda::stack
