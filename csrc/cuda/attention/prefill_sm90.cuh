// SPDX-License-Identifier: BSD-3-Clause
// Attention of sequences with several queries on Hopper: one block per multiprocessor, which takes
// tiles of kTileQueries queries of one head one after the other. A warp each copies queries, keys
// and values, two warpgroups have 64 rows each. While the values of a tile are multiplied and the
// scores of the next one, weights are computed, of the same warpgroup or of the other.
// (FlashAttention-3, arXiv 2407.08608) Tiles of keys start at multiples of their size, and those
// that a row does not see leave it as it is: its result depends neither on where a chunk of the
// prompt begins nor on the rows beside it.
#pragma once

#include "cuda/attention/prefill_sm90_rows.cuh"

namespace ft::cuda::prefill_sm90 {

#ifdef FT_WGMMA

// A warpgroup with its rows.
template <typename T, int kHeadDim>
class Consumer {
  using S = Shape<kHeadDim>;

 public:
  __device__ Consumer(const Attention<T>& a, char* shared, Control& control, int warpgroup)
      : rows_(a, warpgroup), tiles_(shared), control_(control), warpgroup_(warpgroup) {
    if (kTakesTurns && warpgroup == 0) pass_turn(0);
  }

  __device__ void run() {
    for (;;) {
      const PrefillItem& item = await_item();
      if (item.num_rows == 0) return;
      wait(control_.keys, keys_at_);
      start_scores();
      rows_.template await_scores<0>();
      compute(item);
      wait(control_.values, values_at_);
      clear_behind(item);
      start_sums();
      rows_.template await_sums<0>();
      release(control_.values, values_at_);
      rows_.store(item);
    }
  }

 private:
  // Whether the warpgroups start their products in turn: while one's run, the other has weights to
  // compute.
  static constexpr bool kTakesTurns = kHeadDim <= 128;

  // From the first tile's scores to the last one's weights. The products of a tile's values run
  // beside those of the next one's scores.
  __device__ void compute(const PrefillItem& item) {
    const int first = item.oldest / S::kTileKeys, last = item.newest / S::kTileKeys;
    rows_.start_item();
    for (int tile = first;; ++tile) {
      release(control_.keys, keys_at_);
      if (tile == last) arrive(control_.queries.empty);
      rows_.weigh(item, tile);
      rows_.template await_sums<0>();
      if (tile > first) release(control_.values, values_at_);
      rows_.take_weights();
      if (tile == last) return;
      wait(control_.keys, keys_at_);
      if (kTakesTurns) await_turn();
      start_scores();
      wait(control_.values, values_at_);
      start_sums();
      if (kTakesTurns) pass_turn(1 - warpgroup_);
      rows_.template await_scores<1>();
    }
  }

  // The next item, whose queries are there; one without rows is the end.
  __device__ const PrefillItem& await_item() {
    const PrefillItem& item = control_.items[queries_phase_];
    device::barrier_wait(control_.queries.full, queries_phase_);
    queries_phase_ ^= 1;
    return item;
  }

  __device__ void start_scores() {
    rows_.start_scores(tiles_.queries, tiles_.keys(keys_at_.stage));
  }

  __device__ void start_sums() { rows_.start_sums(tiles_.values(values_at_.stage)); }

  // Values of the last tile behind the end of the sequence may be anything, and NaN times 0 would
  // be NaN. Both warpgroups write the same zeros.
  __device__ void clear_behind(const PrefillItem& item) {
    const int begin = item.num_keys - item.newest / S::kTileKeys * S::kTileKeys;
    if (begin >= S::kTileKeys) return;
    char* const values = tiles_.values(values_at_.stage);
    constexpr int kPacks = S::kKeyGroupBytes / kGroupKeys / 16, kStripPacks = kRowBytes / 16;
    for (int i = threadIdx.x % kWarpgroupThreads; i < (S::kTileKeys - begin) * kPacks;
         i += kWarpgroupThreads) {
      const int key = begin + i / kPacks, pack = i % kPacks;
      *reinterpret_cast<uint4*>(values + key / kGroupKeys * S::kKeyGroupBytes +
                                pack / kStripPacks * kGroupBytes + key % kGroupKeys * kRowBytes +
                                pack % kStripPacks * 16) = uint4{};
    }
    device::async_proxy_fence();
    asm volatile("bar.sync %0, %1;" ::"r"(3 + warpgroup_), "n"(kWarpgroupThreads) : "memory");
  }

  __device__ void wait(Barriers<kStages>& barriers, const Position& at) {
    device::barrier_wait(&barriers.full[at.stage], at.phase);
  }

  // The stage may be filled again.
  __device__ void release(Barriers<kStages>& barriers, Position& at) {
    arrive(&barriers.empty[at.stage]);
    at.advance();
  }

  __device__ void arrive(uint64_t* barrier) {
    if (threadIdx.x % 32 == 0) device::barrier_arrive(barrier);
  }

  // Named barriers 1 and 2: the own warpgroup waits, the other one has arrived.
  __device__ void await_turn() {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + warpgroup_), "n"(2 * kWarpgroupThreads) : "memory");
  }
  __device__ void pass_turn(int warpgroup) {
    asm volatile("bar.arrive %0, %1;" ::"r"(1 + warpgroup), "n"(2 * kWarpgroupThreads) : "memory");
  }

  Rows<T, kHeadDim> rows_;
  const Tiles<kHeadDim> tiles_;
  Control& control_;
  const int warpgroup_;
  Position keys_at_, values_at_;
  int queries_phase_ = 0;
};

#endif  // FT_WGMMA

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_sm90_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Attention<T> a) {
#ifdef FT_WGMMA
  extern __shared__ char shared[];
  __shared__ Control control;
  // The first block waits in any case: the kernel must not end before the one in front of it.
  if (blockIdx.x > 0 && static_cast<int>(blockIdx.x) >= num_items(a)) return;
  if (threadIdx.x == 0) {
    init(control.queries);
    init(control.keys);
    init(control.values);
    device::barrier_init_fence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / kWarpgroupThreads, 0);
  if (warpgroup == 0) {
    device::lower_registers<40>();
    Stream<T, kHeadDim>(a, maps, shared, control).run(threadIdx.x / 32);
  } else {
    device::raise_registers<232>();
    device::wait_for_predecessor(a.num_tokens);
    Consumer<T, kHeadDim>(a, shared, control, warpgroup - 1).run();
  }
#endif
}

}  // namespace ft::cuda::prefill_sm90
