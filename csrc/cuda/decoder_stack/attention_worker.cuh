// SPDX-License-Identifier: BSD-3-Clause
// A warp of attention in decoder_stack: with the sums of decode_kernel (attention/decode.cuh), but
// little code around them, since what runs once in a step takes longer than what it computes.
#pragma once

#include "cuda/attention/decode_group.cuh"
#include "cuda/attention/decode_merge.cuh"
#include "cuda/decoder_stack/attention_memory.cuh"
#include "cuda/decoder_stack/turn.cuh"
#include "device/arrival.cuh"
#include "device/copy_async.cuh"
#include "device/hopper.cuh"

namespace ft::cuda::stack {

#ifdef FT_HOPPER

template <typename T, int kHeadDim>
class Worker {
  using Shape = DecodeShape<kHeadDim>;
  static constexpr int kStages = kRingStages<kHeadDim>;
  static constexpr int kPacks = kHeadDim / Items::kPack;        // of a key
  static constexpr int kLaneCopies = kGroupKeys * kPacks / 32;  // of a group of keys
  static constexpr int kPending = 2 * kStages - 1;              // copies behind the next ones
  static constexpr int kHalf = 16;                              // lanes

 public:
  __device__ Worker(const Where& at, int num_warps, int item_heads)
      : call_(*reinterpret_cast<const Call<T>*>(shared_memory(at.call))),
        items_(*reinterpret_cast<const Items*>(shared_memory(at.items))),
        a_(call_.attention),
        rings_{shared_memory(at.rings), num_warps, item_heads},
        step_(*reinterpret_cast<const Step*>(shared_memory(at.step))),
        layer_(step_.layer * call_.layer_stride),
        table_(step_.relative_bias) {}

  // Those of an item, of the last two that the block has.
  __device__ DecodeStates<kHeadDim> states(int item) const {
    return rings_.states(item % rings_.kBuffers);
  }

  // Asks for the warp's first groups of a planned item.
  __device__ void begin(int planned) {
    const DecodeItem& item = items_.planned[planned];
    key_ = first_key(item);
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      if (key_ < item.end) offset_ = first_offset(planned, stage);
      copy_keys(item, stage);
      copy_values(item, stage);
    }
  }

  // Leaves the state of the warp's groups of a planned item that has begun, if it has any.
  __device__ void attend(int planned, const DecodeStates<kHeadDim>& states) {
    const DecodeItem& item = items_.planned[planned];
    int key = first_key(item);
    if (key >= item.end) return;
    resume(item, planned);
    const bool has_newest = takes_newest(item, key);
    uint32_t queries[kHeadDim / 16][2];
    const uint4 newest = await(queries, item, has_newest);
    DecodeState<kHeadDim> state;
    const bool has_slopes = a_.alibi_slopes != nullptr;
    const bool is_plain = table_ == nullptr && !has_slopes;
    const float scale = is_plain ? 1.0f : a_.scale, factor = is_plain ? a_.scale * kLog2e : kLog2e;
    const int newest_key = item.length - 1, begin = item.begin, count = item.end - item.begin;
    int stage = 0;
    while (true) {
      const bool is_newest = has_newest && key + kGroupKeys >= item.end;
      char *const keys = rings_.keys(warp(), stage), *const values = rings_.values(warp(), stage);
      float weights[4];
      device::wait_for_copies<kPending>();
      if (is_newest) put_newest(keys, newest_key - key, newest, 0);
      const float4 bias = bias_of(item, stage, has_slopes);
      const float biases[4] = {bias.x, bias.y, bias.z, bias.w};
      __syncwarp();
      score_keys<T, kHeadDim>(weights, keys, queries, lane());
      const int at = key + lane() / 4;
      weigh(weights, state, [&](int i, float dot) {
        const int own = at + i / 2 * 8;
        const float distance = has_slopes ? static_cast<float>(newest_key - own) : 1.0f;
        const float logit = __fmaf_rn(biases[i], distance, dot * scale);
        return static_cast<unsigned>(own - begin) < static_cast<unsigned>(count) ? logit * factor
                                                                                 : -INFINITY;
      });
      if (key_ < item.end) offset_ = offset_of(item);
      __syncwarp();
      copy_keys(item, stage);
      device::wait_for_copies<kPending>();
      if (is_newest) put_newest(values, newest_key - key, newest, kHalf);
      __syncwarp();
      add_values<T, kHeadDim>(state, values, weights, lane());
      key += rings_.num_warps * kGroupKeys;
      if (key >= item.end) break;
      __syncwarp();
      copy_values(item, stage);
      if (++stage == kStages) stage = 0;
    }
    state.sum_totals();
    state.store(states, warp(), lane(), item.num_heads);
    if (has_newest) keep_newest(item, newest);
  }

  // Of an item whose warps have all left their states; the last ones have the fewest groups.
  __device__ void merge(int planned, const DecodeStates<kHeadDim>& states) const {
    const DecodeItem& item = items_.planned[planned];
    const int num_warps = rings_.num_warps, first_head = num_warps - 1 - warp();
    const int num_states = min(item.num_groups(), num_warps);
    if (num_states == 0 || first_head >= item.num_heads) return;
    const bool is_partial = item.num_chunks > 1;
#pragma unroll 1
    for (int head = first_head; head < item.num_heads; head += num_warps) {
      const HeadState<kHeadDim> state = merged(states, head, num_states);
      if (is_partial) {
        state.leave(a_, item.chunk, item.head + head, lane());
      } else {
        state.write(a_.result(item.token, item.head + head), kHeadDim, lane());
      }
    }
    if (is_partial) merge_chunks<T, kHeadDim>(a_, item, first_head, num_warps, lane());
  }

 private:
  static __device__ int warp() { return threadIdx.x / 32; }
  static __device__ int lane() { return threadIdx.x % 32; }

  __device__ int first_key(const DecodeItem& item) const {
    return item.first_key() + warp() * kGroupKeys;
  }
  __device__ int step_keys() const { return rings_.num_warps * kGroupKeys; }
  __device__ bool is_self() const { return step_.kind == Kind::kSelfAttention; }

  // Whether the warp's last group holds the key of this step.
  __device__ bool takes_newest(const DecodeItem& item, int key) const {
    if (!is_self() || item.end != item.length) return false;
    const int rest = item.end - key;  // whole steps, and at most one group
    return rest <= kGroupKeys || (rest - 1) / kGroupKeys % rings_.num_warps == 0;
  }

  __device__ unsigned first_offset(int planned, int stage) const {
    return items_.offsets[planned][stage * rings_.num_warps + warp()];
  }
  // Where begin() has ended.
  __device__ void resume(const DecodeItem& item, int planned) {
    key_ = first_key(item) + kStages * step_keys();
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      if (first_key(item) + stage * step_keys() < item.end) offset_ = first_offset(planned, stage);
    }
  }
  // Of the group to be copied; all of its keys lie in one page.
  __device__ unsigned offset_of(const DecodeItem& item) const {
    return static_cast<unsigned>(
        (a_.offset_of_key(item.sequence, key_) + item.kv_head * a_.kv_head_stride) / Items::kPack);
  }

  // Keys and then values of a group, or none behind the last one.
  __device__ void copy_keys(const DecodeItem& item, int stage) const {
    if (key_ < item.end) {
      copy(rings_.keys(warp(), stage), call_.k_cache, item);
      if (table_ != nullptr) copy_biases(item, stage);
    }
    device::commit_copies();
  }
  __device__ void copy_values(const DecodeItem& item, int stage) {
    if (key_ < item.end) copy(rings_.values(warp(), stage), call_.v_cache, item);
    device::commit_copies();
    key_ += step_keys();
  }
  __device__ void copy(char* tile, const T* cache, const DecodeItem& item) const {
    constexpr int kRows = 32 / kPacks;  // that the warp copies at a time
    const T* const from = cache + layer_ + (int64_t{offset_} + lane()) * Items::kPack;
    const unsigned first = key_ - item.begin + lane() / kPacks, count = item.end - item.begin;
    char* const to = tile + lane() / kPacks * Shape::kRowBytes + lane() % kPacks * 16;
#pragma unroll
    for (int i = 0; i < kLaneCopies; ++i) {
      device::copy_async(to + i * kRows * Shape::kRowBytes, from + i * 32 * Items::kPack,
                         first + i * kRows < count);
    }
  }

  // What the scores of keys g, g, g + 8, g + 8 get for heads 2t, 2t + 1, 2t, 2t + 1, from a table
  // by distance. Of heads and keys that are not there the neighbours' will do.
  __device__ void copy_biases(const DecodeItem& item, int stage) const {
    const int reach = step_.relative_reach, last = item.num_heads - 1;
    float* const to = &rings_.bias(warp(), stage, lane()).x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int head = item.head + min(lane() % 4 * 2 + i % 2, last);
      const int distance = item.length - 1 - (key_ + lane() / 4 + i / 2 * 8);
      const int column = reach - min(max(distance, 0), reach);
      device::copy_word_async(to + i, table_ + head * (reach + 1) + column);
    }
  }
  // Summands of the group's scores, or slopes by distance.
  __device__ float4 bias_of(const DecodeItem& item, int stage, bool has_slopes) const {
    if (table_ != nullptr) return rings_.bias(warp(), stage, lane());
    if (!has_slopes) return {};
    const int last = item.num_heads - 1, head = lane() % 4 * 2;
    const float even = -a_.alibi_slopes[item.head + min(head, last)];
    const float odd = -a_.alibi_slopes[item.head + min(head + 1, last)];
    return {even, odd, even, odd};
  }

  // Waits for the item's queries, the second operand of products as in load_queries, and for the
  // newest key, in the lanes of half a warp, and value, in those of the other half.
  __device__ uint4 await(uint32_t (&queries)[kHeadDim / 16][2], const DecodeItem& item,
                         bool with_newest) const {
    const T* const token = call_.buffers + step_.in + item.token * step_.in_columns;
    const bool has_head = lane() / 4 < item.num_heads;
    const auto* const words = reinterpret_cast<const uint32_t*>(
        token + (item.head + (has_head ? lane() / 4 : 0)) * kHeadDim + lane() % 4 * 2);
    const int half = lane() / kHalf, pack = lane() % kHalf;
    const bool has_pack = with_newest && pack < kPacks;
    const auto* const new_head = reinterpret_cast<const uint4*>(
        token + (a_.num_heads + half * a_.num_kv_heads + item.kv_head) * kHeadDim);
    uint4 newest{};
    device::Patience patience;
    while (true) {
      uint32_t absences = 0;
#pragma unroll
      for (int i = 0; i < kHeadDim / 8; ++i) {
        queries[i / 2][i % 2] = has_head ? device::load_relaxed(words + i * 4) : 0;
      }
      if (has_pack) newest = device::load_relaxed(new_head + pack);
#pragma unroll
      for (int i = 0; i < kHeadDim / 8; ++i) absences |= device::absences(queries[i / 2][i % 2]);
      absences |= device::absences(newest);
      if ((absences & device::kAbsences) == 0) break;
      patience.spend();
    }
    __syncwarp();
    if (call_.angles != Call<T>::kUnturned) {
      const float* const angles =
          reinterpret_cast<const float*>(shared_memory(call_.angles)) + item.token * kHeadDim;
      turn_queries<T, kHeadDim>(queries, angles, lane());
      if (with_newest) turn_key<T, kHeadDim>(newest, angles, lane());
    }
    return newest;
  }

  // The key, or the value, of the lanes from `first` on into a row of its tile.
  static __device__ void put_newest(char* tile, int row, const uint4& newest, int first) {
    const int pack = lane() - first;
    if (pack < 0 || pack >= kPacks) return;
    *reinterpret_cast<uint4*>(tile + row * Shape::kRowBytes + pack * 16) = newest;
  }
  // Into the cache: the group that was copied last is the newest.
  __device__ void keep_newest(const DecodeItem& item, const uint4& newest) const {
    const int pack = lane() % kHalf, row = (item.length - 1) % kGroupKeys;
    if (pack >= kPacks) return;
    T* const cache = (lane() < kHalf ? call_.k_cache : call_.v_cache) + layer_;
    reinterpret_cast<uint4*>(cache)[int64_t{offset_} + row * kPacks + pack] = newest;
  }

  // A head's states as HeadState adds them up, all on their way at once.
  __device__ HeadState<kHeadDim> merged(const DecodeStates<kHeadDim>& states, int head,
                                        int count) const {
    constexpr int kMost = Shape::kMaxWarps;
    const int dim = min(lane() * 4, kHeadDim - 4);
    float2 totals[kMost];
    float4 sums[kMost];
    float best = -INFINITY;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const int part = min(i, count - 1);
      totals[i] = states.total(part, head);
      sums[i] = *reinterpret_cast<const float4*>(states.sum(part, head) + dim);
      best = fmaxf(best, totals[i].x);
    }
    HeadState<kHeadDim> state(best);
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i < count) state.add(totals[i], kHeadDim, lane(), [&](int) { return sums[i]; });
    }
    return state;
  }

  const Call<T>& call_;
  const Items& items_;
  const Attention<T>& a_;
  const Rings<kHeadDim> rings_;
  const Step& step_;
  const int64_t layer_;
  const float* const table_;
  int key_ = 0;          // of the next group to be copied
  unsigned offset_ = 0;  // of it, or of the last one
};

#endif  // FT_HOPPER

}  // namespace ft::cuda::stack
