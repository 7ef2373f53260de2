// SPDX-License-Identifier: BSD-3-Clause
// Attention of sequences with several queries on Hopper, over the paged cache or packed: blocks
// that fill the multiprocessors take tiles of queries of one head one after the other. A warp each
// copies queries, keys and values, one to three warpgroups have 64 rows each. While the values of a
// tile are multiplied and the scores of the next one, weights are computed, of the same warpgroup
// or of another. (FlashAttention-3, arXiv 2407.08608) Tiles of keys start at multiples of their
// size, and those that a row does not see leave it as it is: its result depends neither on where a
// chunk of the prompt begins nor on the rows beside it, nor on how many warpgroups share the keys.
#pragma once

#include "cuda/attention/prefill_sm90_rows.cuh"

namespace ft::cuda::prefill_sm90 {

#ifdef FT_WGMMA

// A warpgroup with its rows.
template <typename A, typename S>
class Consumer {
 public:
  __device__ Consumer(const A& a, char* shared, Control<S>& control, int warpgroup)
      : rows_(a, warpgroup), tiles_(shared), control_(control), warpgroup_(warpgroup) {
    if (kTakesTurns && warpgroup == 0) pass_turn(0);
  }

  __device__ void run() {
    const PrefillItem* item = &await_item();
    if (item->num_rows == 0) return;
    wait(control_.keys, keys_at_);
    start_scores();
    while (item->num_rows > 0) item = &compute(*item);
    rows_.template await_scores<0>();
  }

 private:
  // Whether the warpgroups start their products in turn: while one's run, others have weights to
  // compute.
  static constexpr bool kTakesTurns = S::kWarpgroups > 1 && S::kHeadDim <= 128;
  // Whether an item's result is stored while the first scores of the next one are computed, which
  // needs its queries, and registers.
  static constexpr bool kOverlapsItems = S::kQueryStages > 1;

  // An item whose first scores have been started; the next one, whose first scores then are. Behind
  // the last item those are of anything, and nobody looks at them.
  __device__ const PrefillItem& compute(const PrefillItem& item) {
    rows_.start_item();
    rows_.template await_scores<0>();
    compute_tiles(item);
    wait(control_.values, values_at_);
    clear_behind(item);
    if (kTakesTurns) await_turn();
    start_sums();
    if (!kOverlapsItems) finish<0>(item);
    const PrefillItem& next = await_item();
    if (next.num_rows > 0) wait(control_.keys, keys_at_);
    start_scores();
    if (kTakesTurns) pass_turn((warpgroup_ + 1) % S::kWarpgroups);
    if (kOverlapsItems) finish<1>(item);
    return next;
  }

  // When all but kRunning products are done.
  template <int kRunning>
  __device__ void finish(const PrefillItem& item) {
    rows_.template await_sums<kRunning>();
    release(control_.values, values_at_);
    rows_.store(item);
  }

  // From the first tile's scores to the last one's weights. The products of a tile's values run
  // beside those of the next one's scores.
  __device__ void compute_tiles(const PrefillItem& item) {
    const int first = item.oldest / S::kTileKeys, last = item.newest / S::kTileKeys;
    for (int tile = first;; ++tile) {
      release(control_.keys, keys_at_);
      if (tile == last) release(control_.queries, queries_at_);
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
      if (kTakesTurns) pass_turn((warpgroup_ + 1) % S::kWarpgroups);
      rows_.template await_scores<1>();
    }
  }

  // The next item, whose queries are there; one without rows is the end.
  __device__ const PrefillItem& await_item() {
    const PrefillItem& item = control_.items[place_];
    place_ = (place_ + 1) % kItems;
    wait(control_.queries, queries_at_);
    return item;
  }

  __device__ void start_scores() {
    rows_.start_scores(tiles_.queries(queries_at_.stage), tiles_.keys(keys_at_.stage));
  }

  __device__ void start_sums() { rows_.start_sums(tiles_.values(values_at_.stage)); }

  // Values of the last tile behind the end of the sequence may be anything, and NaN times 0 would
  // be NaN. All warpgroups write the same zeros.
  __device__ void clear_behind(const PrefillItem& item) {
    const int begin = item.num_keys - item.newest / S::kTileKeys * S::kTileKeys;
    if (begin >= S::kTileKeys) return;
    char* const values = tiles_.values(values_at_.stage);
    constexpr int kPacks = S::kHeadDim / 8, kStripPacks = kRowBytes / 16;
    for (int i = threadIdx.x % kWarpgroupThreads; i < (S::kTileKeys - begin) * kPacks;
         i += kWarpgroupThreads) {
      const int key = begin + i / kPacks, pack = i % kPacks;
      *reinterpret_cast<uint4*>(values + key / kCacheGroupKeys * S::kKeyGroupBytes +
                                pack / kStripPacks * S::kKeyStripBytes +
                                key % kCacheGroupKeys * kRowBytes + pack % kStripPacks * 16) =
          uint4{};
    }
    device::async_proxy_fence();
    asm volatile("bar.sync %0, %1;" ::"r"(1 + S::kWarpgroups + warpgroup_), "n"(kWarpgroupThreads)
                 : "memory");
  }

  template <typename B>
  __device__ void wait(B& barriers, const device::RingPosition& at) {
    device::barrier_wait(&barriers.full[at.stage], at.phase);
  }

  // The stage may be filled again.
  template <typename B>
  __device__ void release(B& barriers, device::RingPosition& at) {
    if (threadIdx.x % 32 < B::kLanes) device::barrier_arrive(&barriers.empty[at.stage]);
    at.advance(B::kCount);
  }

  // A named barrier per warpgroup: it waits, and the one before it has arrived.
  __device__ void await_turn() {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + warpgroup_), "n"(2 * kWarpgroupThreads) : "memory");
  }
  __device__ void pass_turn(int warpgroup) {
    asm volatile("bar.arrive %0, %1;" ::"r"(1 + warpgroup), "n"(2 * kWarpgroupThreads) : "memory");
  }

  Rows<A, S> rows_;
  const Tiles<S> tiles_;
  Control<S>& control_;
  const int warpgroup_;
  device::RingPosition queries_at_, keys_at_, values_at_;
  int place_ = 0;
};

#endif  // FT_WGMMA

template <typename A, typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    prefill_sm90_kernel(const __grid_constant__ Maps maps, const __grid_constant__ A a) {
#ifdef FT_WGMMA
  extern __shared__ char shared[];
  __shared__ Control<S> control;
  // The first block waits in any case: the kernel must not end before the one in front of it.
  if (blockIdx.x > 0 && !Source<A, S>::may_have_items(a)) return;
  if (threadIdx.x == 0) {
    init<S>(control.queries);
    init<S>(control.keys);
    init<S>(control.values);
    device::barrier_init_fence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / kWarpgroupThreads, 0);
  if (warpgroup == 0) {
    device::lower_registers<S::kStreamRegisters>();
    Stream<A, S>(a, maps, shared, control).run(threadIdx.x / 32);
  } else {
    device::raise_registers<S::kRegisters>();
    device::wait_for_predecessor();
    Consumer<A, S>(a, shared, control, warpgroup - 1).run();
  }
#endif
}

}  // namespace ft::cuda::prefill_sm90
