// SPDX-License-Identifier: BSD-3-Clause
// What a warpgroup of prefill_sm90.cuh computes for its rows of queries: scores, an online softmax,
// sums of values. Products run while the threads compute other weights: the caller says when what
// they read and write may be touched.
#pragma once

#include "cuda/attention/prefill_sm90_stream.cuh"
#include "device/tensor_core.cuh"

namespace ft::cuda::prefill_sm90 {

#ifdef FT_WGMMA

// A lane has two rows, `half` 0 and 1, lane / 4 and lane / 4 + 8 of the warp's 16; accumulator i
// belongs to half i / 2 % 2 and column i / 4 * 8 + lane % 4 * 2 + i % 2.
template <typename A, typename S>
class Rows {
  using T = typename A::Element;
  static constexpr int kHeadDim = S::kHeadDim;
  static constexpr int kTileKeys = S::kTileKeys;
  static constexpr int kScores = kTileKeys / 2, kSums = kHeadDim / 2;
  static constexpr int kSteps = kTileKeys / 16;

 public:
  __device__ Rows(const A& a, int warpgroup)
      : a_(a),
        score_(a),
        first_row_(warpgroup * kWarpgroupRows),
        row_(first_row_ + threadIdx.x % kWarpgroupThreads / 32 * 16 + threadIdx.x % 32 / 4) {}

  __device__ void start_item() {
    best_[0] = best_[1] = -INFINITY;
    total_[0] = total_[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums_[i] = 0.0f;
  }

  __device__ void start_scores(const char* queries, const char* keys) {
    const uint64_t rows =
        device::strip_descriptor(queries + first_row_ * kRowBytes, kGroupBytes, 0);
    const uint64_t columns = device::strip_descriptor(keys, S::kKeyGroupBytes, 0);
    device::pin(scores_);
    device::products_fence();
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      const int strip = k / 4, bytes = k % 4 * 32;
      device::multiply_rows<T>(scores_, rows + (strip * S::kQueryStripBytes + bytes) / 16,
                               columns + (strip * S::kKeyStripBytes + bytes) / 16, k > 0);
    }
    device::products_commit();
  }

  __device__ void start_sums(const char* values) {
    const uint64_t columns = device::strip_descriptor(values, S::kKeyGroupBytes, S::kKeyStripBytes);
    device::pin(weights_);
    device::pin(sums_);
    device::products_fence();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      device::multiply_columns<T>(sums_, weights_[k], columns + k * 2 * S::kKeyGroupBytes / 16);
    }
    device::products_commit();
  }

  // The scores have been computed, and the sums, where kRunning products, started later, still run.
  template <int kRunning>
  __device__ void await_scores() {
    device::products_wait<kRunning>();
    device::pin(scores_);
  }
  template <int kRunning>
  __device__ void await_sums() {
    device::products_wait<kRunning>();
    device::pin(weights_);
    device::pin(sums_);
  }

  // Scores to weights of an online softmax. Where the item has no row of this warpgroup, anything
  // may be its weights.
  __device__ void weigh(const PrefillItem& item, int tile) {
    if (first_row_ >= item.num_rows) return;
    const int first_key = tile * kTileKeys;
    const int first = item.position + first_row_, last = first + kWarpgroupRows - 1;
    if (!score_.is_plain()) transform(item, first_key);
    if (first_key + kTileKeys - 1 > a_.newest_visible(first, item.num_keys) ||
        first_key < a_.oldest_visible(last)) {
      mask(item, first_key);
    }
    weigh_half<0>();
    weigh_half<1>();
  }

  // The sums so far to the new best score, the weights to operands of their product.
  __device__ void take_weights() {
    if (__any_sync(0xffffffffu, correction_[0] != 1.0f || correction_[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums_[i] *= correction_[i / 2 % 2];
    }
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights_[k][i] = device::pack<T>(scores_[k * 8 + i * 2], scores_[k * 8 + i * 2 + 1]);
      }
    }
  }

  // Four lanes hold 32 neighbouring columns of a row, each two of every
  // eight; they exchange them, so that each stores eight.
  __device__ void store(const PrefillItem& item) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = 1.0f / sum_of_lanes(total_[half]);
      const int row = row_ + half * 8;
      T* const to = a_.result(item.token + row, item.head) + lane() % 4 * 8;
#pragma unroll
      for (int n = 0; n < kHeadDim; n += 32) {
        uint32_t packs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = &sums_[n / 2 + i * 4 + half * 2];
          packs[i] = device::pack<T>(pair[0] * scale, pair[1] * scale);
        }
        exchange<1>(packs);
        exchange<2>(packs);
        if (row < item.num_rows) {
          *reinterpret_cast<uint4*>(to + n) = make_uint4(packs[0], packs[1], packs[2], packs[3]);
        }
      }
    }
  }

 private:
  // Computed where it is used: registers are scarce.
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }

  template <int kHalf>
  __device__ void weigh_half() {
    const float factor = score_.exponent_factor();
    float highest = -INFINITY;
#pragma unroll
    for (int i = kHalf * 2; i < kScores; i += 4) {
      highest = fmaxf(highest, fmaxf(scores_[i], scores_[i + 1]));
    }
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
    const float next = fmaxf(best_[kHalf], __fmul_rn(highest, factor));
    const float shift = next == -INFINITY ? 0.0f : next;  // nothing seen so far
    correction_[kHalf] = device::exp2_fast(best_[kHalf] - shift);
    best_[kHalf] = next;
    float total = __fmul_rn(total_[kHalf], correction_[kHalf]);
#pragma unroll
    for (int i = kHalf * 2; i < kScores; i += 4) {
#pragma unroll
      for (int j = i; j < i + 2; ++j) {
        scores_[j] = device::exp2_fast(__fmaf_rn(scores_[j], factor, -shift));
        total += scores_[j];  // of the lane's keys; summed over lanes at the end
      }
    }
    total_[kHalf] = total;
  }

  // Distances are whole numbers that float32 holds; to convert each would cost as much as its
  // weight.
  __device__ void transform(const PrefillItem& item, int first_key) {
    const float slope = Score::bias_of(a_, item.head);
    const float distance = static_cast<float>(item.position + row_ - first_key - column(0));
    if (score_.is_capped()) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) scores_[i] = score_.capped(scores_[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kScores; ++i) scores_[i] = score_.scaled(scores_[i]);
    }
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      scores_[i] =
          Score::biased(scores_[i], slope, distance + (i / 2 % 2 * 8 - (column(i) - column(0))));
    }
  }

  // Without branches: there are as many tests as scores.
  __device__ void mask(const PrefillItem& item, int first_key) {
    int low[2], high[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = item.position + row_ + half * 8, shift = first_key + column(0);
      low[half] = a_.oldest_visible(position) - shift;
      high[half] = a_.newest_visible(position, item.num_keys) - shift;
    }
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const int key = column(i) - column(0), half = i / 2 % 2;
      const bool is_hidden = (key < low[half]) | (key > high[half]);
      scores_[i] = is_hidden ? -INFINITY : scores_[i];
    }
  }

  // Of a score in its tile.
  __device__ int column(int i) const { return i / 4 * 8 + lane() % 4 * 2 + i % 2; }

  __device__ static float sum_of_lanes(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
  }

  // A step of transposing 4 packs of 4 lanes: where lane and index differ in the bit kBit, they
  // swap.
  template <int kBit>
  __device__ void exchange(uint32_t (&packs)[4]) const {
    const bool is_high = (lane() & kBit) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & kBit) != 0) continue;
      uint32_t &low = packs[i], &high = packs[i | kBit];
      const uint32_t got = __shfl_xor_sync(0xffffffffu, is_high ? low : high, kBit);
      (is_high ? low : high) = got;
    }
  }

  const A& a_;
  const Score score_;
  const int first_row_, row_;
  float best_[2], total_[2], correction_[2];  // best: times the exponent's factor
  float scores_[kScores], sums_[kSums];
  uint32_t weights_[kSteps][4];
};

#endif  // FT_WGMMA

}  // namespace ft::cuda::prefill_sm90
