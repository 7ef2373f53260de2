// SPDX-License-Identifier: BSD-3-Clause
// decoder_stack: all layers of a decoder for a few tokens of as many sequences, in one kernel of a
// block per multiprocessor. Between two kernels the memory idles while the last block ends and the
// first weights of the next come; here one thread of every block brings its rows of all weights
// through a ring in shared memory, whatever the others wait for. What a step leaves goes to all
// blocks through the second cache, as values that are their own flags (device/arrival.cuh). All
// sums have the order of the kernels that compute the layers one by one.
#pragma once

#include "cuda/decoder_stack/attention.cuh"
#include "cuda/decoder_stack/product.cuh"
#include "cuda/decoder_stack/values.cuh"
#include "device/pdl.cuh"

namespace ft::cuda::stack {

#ifdef FT_HOPPER

// The warps of a block that compute.
template <typename T, int kHeadDim>
class Consumer {
 public:
  __device__ Consumer(const Arguments<T>& a, const Shared<T, kHeadDim>& shared)
      : a_(a), shared_(shared) {}

  __device__ void run() {
    start();
#pragma unroll 1
    for (int step = 0; step < a_.num_steps; ++step) {
      const Step& header = shared_.header(step);
      clear(header);
      if (header.kind == Kind::kProduct) {
        multiply_step(header, step);
      } else {
        attend_step(header, step);
      }
    }
    finish();
  }

 private:
  __device__ void start() {
    for (int step : {0, 1}) store_header(step, load_header(step));
    device::wait_for_predecessor();
    static_assert(sizeof(Progress) == kProgressBytes);
    auto& progress = shared_.progress();
    if (threadIdx.x == 0) {
      progress.turn = a_.state->turn;
      progress.tokens_to_clear = a_.state->tokens[progress.turn ^ 1];
    }
    if (threadIdx.x < kWarps) progress.at[threadIdx.x] = {};
#pragma unroll 1
    for (int at = threadIdx.x * kPackLanes; at < a_.tokens * a_.hidden;
         at += kConsumers * kPackLanes) {
      device::store_pack(shared_.residual() + at, device::load_pack<kPackLanes>(a_.residual + at));
    }
    if (a_.cos_sin != nullptr) load_angles();
    copy_call(shared_.call(false), a_.self);
    copy_call(shared_.call(true), a_.cross);
    device::named_barrier(1, kConsumers);
    if (threadIdx.x < 2) complete_call(threadIdx.x == 1);
#pragma unroll 1
    for (int is_cross = 0; is_cross <= static_cast<int>(a_.has_cross); ++is_cross) {
      plan_attention<T>(shared_.call(is_cross).attention, where(is_cross, 0),
                        a_.attention_warps * kRingStages<kHeadDim>);
    }
    device::named_barrier(1, kConsumers);
  }

  __device__ void finish() const {
    device::named_barrier(1, kConsumers);
    if (blockIdx.x == 0) {
#pragma unroll 1
      for (int at = threadIdx.x * kPackLanes; at < a_.tokens * a_.hidden;
           at += kConsumers * kPackLanes) {
        device::store_pack(a_.residual + at,
                           device::load_pack<kPackLanes>(shared_.residual() + at));
      }
    }
    if (threadIdx.x == 0 && device::is_last_of(gridDim.x, &a_.state->counter)) {
      a_.state->tokens[turn()] = a_.tokens;
      a_.state->turn = turn() ^ 1;
    }
  }

  // By which all layers turn the tokens.
  __device__ void load_angles() const {
    const int head_dim = a_.self.head_dim;
#pragma unroll 1
    for (int i = threadIdx.x; i < a_.tokens * head_dim; i += kConsumers) {
      const int64_t position = a_.positions[i / head_dim];
      shared_.angles()[i] = a_.cos_sin[position * head_dim + i % head_dim];
    }
  }

  // A thread has a word: a struct's own copy would be long code.
  static __device__ void copy_call(Call<T>& to, const Attention<T>& from) {
    constexpr int kWords = sizeof(Attention<T>) / sizeof(uint32_t);
    static_assert(kWords <= kConsumers);
    if (threadIdx.x < kWords) {
      reinterpret_cast<uint32_t*>(&to.attention)[threadIdx.x] =
          reinterpret_cast<const uint32_t*>(&from)[threadIdx.x];
    }
  }
  __device__ void complete_call(bool is_cross) const {
    Call<T>& call = shared_.call(is_cross);
    call.buffers = buffers(turn());
    call.k_cache = a_.k_cache;
    call.v_cache = a_.v_cache;
    call.layer_stride = a_.layer_stride;
    const bool is_turned = a_.cos_sin != nullptr && !is_cross;
    call.angles = is_turned ? shared_.offset_of(shared_.angles()) : Call<T>::kUnturned;
  }
  __device__ Where where(bool is_cross, int step) const {
    return {shared_.offset_of(&shared_.call(is_cross)), shared_.offset_of(&shared_.header(step)),
            shared_.offset_of(shared_.rings()), shared_.offset_of(shared_.items(is_cross))};
  }

  __device__ int turn() const { return shared_.progress().turn; }
  __device__ T* buffers(int turn) const { return a_.buffers + turn * a_.buffer_elements; }
  __device__ const T* in(const Step& step) const { return buffers(turn()) + step.in; }
  __device__ T* out(const Step& step) const {
    return step.out == Step::kNone ? a_.out : buffers(turn()) + step.out;
  }

  // Headers come two steps ahead. A barrier of all consumers follows before they are read.
  static constexpr int kHeaderPacks = sizeof(Step) / sizeof(uint4);
  __device__ uint4 load_header(int step) const {
    const int i = threadIdx.x;
    if (i >= kHeaderPacks || step >= a_.num_steps) return {};
    return reinterpret_cast<const uint4*>(a_.steps + step)[i];
  }
  __device__ void store_header(int step, const uint4& pack) const {
    const int i = threadIdx.x;
    if (i < kHeaderPacks) reinterpret_cast<uint4*>(&shared_.header(step))[i] = pack;
  }

  // What the launch before left where this step's values will be in the next launch.
  __device__ void clear(const Step& step) const {
    if (step.out == Step::kNone) return;
    const int packs = shared_.progress().tokens_to_clear * step.out_columns / kPackLanes;
    auto* const to = reinterpret_cast<uint4*>(buffers(turn() ^ 1) + step.out);
#pragma unroll 1
    for (int i = blockIdx.x * kConsumers + threadIdx.x; i < packs; i += gridDim.x * kConsumers) {
      to[i] = uint4{device::kAbsent, device::kAbsent, device::kAbsent, device::kAbsent};
    }
  }

  __device__ void multiply_step(const Step& step, int index) {
    const uint4 ahead = load_header(index + 2);
    if (index + 1 < a_.num_steps) begin_next(index + 1);
    const Target<T> target{out(step), step.out_columns, static_cast<const T*>(step.bias),
                           step.activation};
    Product<T, kHeadDim> product(shared_, step, target, a_.tokens);
    device::RingPosition& kept = shared_.progress().at[threadIdx.x / 32];
    device::RingPosition at = kept;
    product.begin(at);
    if (step.norm_weight == nullptr) {
      if (product.has_rows()) take_values(shared_, step, in(step), a_.tokens);
    } else if (a_.hidden > kConsumers * kPackLanes) {
      take_norms<kMaxRowPacks>(step);
    } else {
      take_norms<1>(step);
    }
    store_header(index + 2, ahead);
    device::named_barrier(1, kConsumers);
    product.run(at);
    if (threadIdx.x % 32 == 0) kept = at;
  }

  template <int kPacks>
  __device__ void take_norms(const Step& step) const {
    if (step.norm_bias == nullptr) {
      take_norm<false, kPacks>(shared_, step, in(step), a_.tokens, a_.hidden, a_.inverse_hidden);
    } else {
      take_norm<true, kPacks>(shared_, step, in(step), a_.tokens, a_.hidden, a_.inverse_hidden);
    }
  }

  static __device__ bool is_cross(const Step& step) { return step.kind == Kind::kCrossAttention; }

  __device__ void begin_next(int index) const {
    const Step& next = shared_.header(index);
    if (next.kind == Kind::kProduct) return;
    begin_attention<T, kHeadDim>(where(is_cross(next), index), a_.attention_warps, a_.item_heads);
  }

  __device__ void attend_step(const Step& step, int index) const {
    const uint4 ahead = load_header(index + 2);
    attend<T, kHeadDim>(where(is_cross(step), index), a_.attention_warps, a_.item_heads);
    store_header(index + 2, ahead);
    device::named_barrier(1, kConsumers);  // the rings are free for the next x
  }

  const Arguments<T>& a_;
  const Shared<T, kHeadDim>& shared_;
};

#endif  // FT_HOPPER

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    decoder_stack_kernel(const __grid_constant__ Arguments<T> a) {
#ifdef FT_HOPPER
  extern __shared__ char memory[];
  const Shared<T, kHeadDim> shared(memory, a.layout);
  if (threadIdx.x == 0) shared.init(a);
  __syncthreads();
  if (threadIdx.x < kConsumers) {
    Consumer<T, kHeadDim>(a, shared).run();
  } else if (threadIdx.x == kConsumers) {
    load_weights(a, shared);
  }
#endif
}

}  // namespace ft::cuda::stack
