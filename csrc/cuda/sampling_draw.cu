// SPDX-License-Identifier: BSD-3-Clause
// sample and greedy: a block per row, or a cluster of them where rows are few, finds the largest
// logit, and for rows that draw the last token that top-k and top-p keep, digit by digit without a
// sort; then the warp whose segment holds the drawn mass walks through it. Masses are integers, so
// atomics and reductions give the body's token, however many blocks there are.
#include "cuda/launchers.h"
#include "cuda/sampling.h"
#include "device/pdl.cuh"
#include "device/philox.cuh"
#include "device/rank.cuh"
#include "device/row.cuh"
#include "device/select.cuh"
#include "device/share.cuh"
#include "device/warp.cuh"

namespace ft::cuda {
namespace {

using device::Cluster;
using device::index_of;
using device::lane;
using device::logit_of;
using device::rank_of;
using device::Segment;
using device::warp;

constexpr int kThreads = device::kSelectThreads;
constexpr int kWarps = kThreads / 32;
constexpr int kResidentBlocks = 2;  // on a multiprocessor

template <int kBlocks>
struct Shared {
  uint64_t best_of_warps[kWarps], best_of_blocks[kBlocks];
  uint64_t mass_of_warps[kWarps], mass_of_blocks[kBlocks];
  int resets_of_warps[kWarps];
  device::Selection selection;
};

// How one row draws.
struct Draw {
  int top_k;
  float top_p, min_p;
  double uniform;
};

__device__ Draw draw_of(const SamplingTables& tables, const int64_t* seeds, int slot, int length) {
  return {tables.at(kTopK, slot), tables.at(kTopP, slot), tables.at(kMinP, slot),
          device::philox_uniform(seeds[slot], length)};
}

// What top_p falls with.
struct Decay {
  float factor = 1.0f, least = 0.0f;
  int prompt_len = 0, reset_id = -1;
};

__device__ Decay decay_of(const SamplingTables& tables, int slot) {
  return {tables.at(kTopPDecay, slot), tables.at(kTopPMin, slot), tables.at(kPromptLen, slot),
          tables.at(kTopPResetId, slot)};
}

// How many tokens came after the prompt, or after the last reset id of the output; the same for all
// threads of the block.
__device__ int tokens_since_reset(int* of_warps, const int32_t* history, int length,
                                  const Decay& decay) {
  int last = decay.prompt_len - 1;
  for (int i = decay.prompt_len + static_cast<int>(threadIdx.x); i < length; i += kThreads) {
    if (history[i] == decay.reset_id) last = i;
  }
  last = __reduce_max_sync(0xffffffffu, last);
  if (lane() == 0) of_warps[warp()] = last;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) last = max(last, of_warps[i]);
  return length - 1 - last;
}

// Products of doubles only, so that every device rounds alike.
__device__ float decayed(float top_p, const Decay& decay, int times) {
  if (times <= 0) return top_p;
  double power = 1.0;
  for (double base = decay.factor; times > 0; times /= 2, base *= base) {
    if (times % 2 == 1) power *= base;
  }
  return static_cast<float>(fmax(top_p * power, static_cast<double>(decay.least)));
}

// The best rank of the row, for every thread of the cluster. Waits for the blocks to have arrived.
template <int kBlocks>
__device__ uint64_t best_of(Shared<kBlocks>& shared, const Segment& segment) {
  float best = -INFINITY;
  int at = segment.begin + lane();
  device::for_each(segment, [&](int index, float logit) {
    if (logit > best) {
      best = logit;
      at = index;
    }
  });
  const bool is_empty = segment.begin == segment.end;
  const uint64_t of_warp = device::warp_max(is_empty ? 0 : rank_of(best, at));
  if (lane() == 0) shared.best_of_warps[warp()] = of_warp;
  Cluster<kBlocks>::wait();
  __syncthreads();
  if (threadIdx.x < kBlocks) {
    uint64_t of_block = 0;
    for (int i = 0; i < kWarps; ++i) of_block = max(of_block, shared.best_of_warps[i]);
    *Cluster<kBlocks>::at(&shared.best_of_blocks[Cluster<kBlocks>::rank()], threadIdx.x) = of_block;
  }
  Cluster<kBlocks>::sync();
  uint64_t of_row = 0;
  for (int i = 0; i < kBlocks; ++i) of_row = max(of_row, shared.best_of_blocks[i]);
  return of_row;
}

// The token at which the cumulative mass of those that are kept passes `uniform` of the whole; the
// thread that finds it writes it, or where there is no mass at all the first one `otherwise`.
template <int kBlocks, typename MassAt>
__device__ void take(Shared<kBlocks>& shared, const Segment& segment, const MassAt& mass_at,
                     double uniform, int otherwise, int32_t* out) {
  uint64_t mass = 0;
  device::for_each(segment, [&](int index, float logit) { mass += mass_at(index, logit); });
  mass = device::warp_sum(mass);
  if (lane() == 0) shared.mass_of_warps[warp()] = mass;
  __syncthreads();
  const int rank = Cluster<kBlocks>::rank();
  if (threadIdx.x < kBlocks) {
    uint64_t of_block = 0;
    for (int i = 0; i < kWarps; ++i) of_block += shared.mass_of_warps[i];
    *Cluster<kBlocks>::at(&shared.mass_of_blocks[rank], threadIdx.x) = of_block;
  }
  Cluster<kBlocks>::sync();
  uint64_t start = 0, total = 0;
  for (int i = 0; i < kBlocks; ++i) {
    if (i < rank) start += shared.mass_of_blocks[i];
    total += shared.mass_of_blocks[i];
  }
  for (int i = 0; i < warp(); ++i) start += shared.mass_of_warps[i];
  if (total == 0 && rank == 0 && threadIdx.x == 0) *out = otherwise;
  const uint64_t drawn = static_cast<uint64_t>(uniform * static_cast<double>(total));
  if (drawn < start || drawn >= start + mass) return;
  for (int first = segment.begin; first < segment.end; first += 32) {
    const int index = first + lane();
    const float logit = index < segment.end ? segment.row[index] : -INFINITY;
    const uint64_t until = start + device::warp_prefix(mass_at(index, logit));
    const uint32_t passed = __ballot_sync(0xffffffffu, until > drawn);
    if (passed != 0) {
      if (lane() == 0) *out = first + __ffs(passed) - 1;
      return;
    }
    start = __shfl_sync(0xffffffffu, until, 31);
  }
}

// integers: null where every row is greedy.
template <int kBlocks>
__global__ void __launch_bounds__(kThreads, kResidentBlocks)
    sample_kernel(int32_t* out, Logits logits, TokenPool pool, const int32_t* slots,
                  const int32_t* lengths, SamplingTables tables, const int64_t* seeds) {
  __shared__ Shared<kBlocks> shared;
  out += blockIdx.y;
  const bool is_first = Cluster<kBlocks>::rank() == 0 && threadIdx.x == 0;
  const int slot = slots[blockIdx.y];
  if (slot < 0) {
    device::wait_for_predecessor();
    if (is_first) *out = 0;
    return;
  }
  Cluster<kBlocks>::arrive();
  const bool draws = tables.integers != nullptr && tables.at(kTopK, slot) != 1;
  if (draws) {
    device::clear(shared.selection, 0);
    device::clear(shared.selection, 1);
  }
  Draw draw = draws ? draw_of(tables, seeds, slot, lengths[blockIdx.y]) : Draw{};
  const Decay decay = draws ? decay_of(tables, slot) : Decay{};
  device::wait_for_predecessor();
  const float* const row = logits.data + blockIdx.y * logits.stride;
  const Segment segment = device::segment_of<kBlocks, kThreads>(row, logits.vocab_size);
  const uint64_t best = best_of(shared, segment);
  if (!draws) {
    if (is_first) *out = index_of(best);
    return;
  }
  if (decay.factor != 1.0f && draw.top_p > 0.0f) {
    const int length = lengths[blockIdx.y];
    draw.top_p = decayed(draw.top_p, decay,
                         tokens_since_reset(shared.resets_of_warps, pool.row(slot), length, decay));
  }
  const device::Order order{logit_of(best), 32 - __clz(logits.vocab_size)};
  uint64_t last = ~uint64_t{0};
  int round = 0;
  if (draw.top_k > 0 && draw.top_k < logits.vocab_size) {
    last = device::last_kept<kBlocks>(shared.selection, segment, order, last,
                                      device::Count{draw.top_k}, round);
  }
  if (draw.top_p > 0.0f && draw.top_p < 1.0f) {
    last = device::last_kept<kBlocks>(shared.selection, segment, order, last,
                                      device::Mass{draw.top_p}, round);
  }
  const uint64_t least = static_cast<uint64_t>(ceil(double{draw.min_p} * device::kMassOfBest));
  const auto mass_at = [&](int index, float logit) -> uint64_t {
    const float share = device::share_of(logit, order.largest);
    const uint64_t mass = device::mass_of(share);
    return mass == 0 || mass < least || order.place(share, index) > last ? 0 : mass;
  };
  take(shared, segment, mass_at, draw.uniform, index_of(best), out);
}

using SampleKernel = decltype(&sample_kernel<1>);

// How many blocks share a row: as many as leave all rows running at once, up to kClusterBlocks.
unsigned blocks_for(unsigned rows) {
  if (!has_clusters()) return 1;
  const unsigned resident = static_cast<unsigned>(kResidentBlocks * num_multiprocessors());
  unsigned blocks = kClusterBlocks;
  while (blocks > 1 && blocks * rows > resident) blocks /= 2;
  return blocks;
}

SampleKernel kernel_with(unsigned blocks) {
  switch (blocks) {
    case 8:
      return sample_kernel<8>;
    case 4:
      return sample_kernel<4>;
    case 2:
      return sample_kernel<2>;
    default:
      return sample_kernel<1>;
  }
}
static_assert(kClusterBlocks == 8);

void run(const char* op, const Tensor& out, const Tensor& slots, const Logits& logits,
         const TokenPool& pool, const int32_t* lengths, const SamplingTables& tables,
         const int64_t* seeds, int64_t stream) {
  check_vector(op, "out", out, slots.shape[0], DType::kInt32);
  const unsigned rows = static_cast<unsigned>(slots.shape[0]);
  if (rows == 0) return;
  const unsigned blocks = blocks_for(rows);
  launch_clusters(op, kernel_with(blocks), blocks, dim3(blocks, rows), kThreads, 0, stream,
                  out.as<int32_t>(), logits, pool, slots.as<int32_t>(), lengths, tables, seeds);
}

}  // namespace

void greedy(const Tensor& out, const Tensor& logits, const Tensor& slots, int64_t stream) {
  run("greedy", out, slots, check_logits("greedy", logits, slots), TokenPool{}, nullptr,
      SamplingTables{}, nullptr, stream);
}

void sample(const Tensor& out, const Tensor& logits, const Tensor& token_pool, const Tensor& slots,
            const Tensor& lengths, const Tensor& floats, const Tensor& integers,
            const Tensor& seeds, int64_t stream) {
  const Logits rows = check_logits("sample", logits, slots);
  check_vector("sample", "lengths", lengths, slots.shape[0], DType::kInt32);
  const SamplingTables tables = check_tables("sample", floats, integers);
  const TokenPool pool = check_token_pool("sample", token_pool, tables.num_slots);
  check_vector("sample", "seeds", seeds, tables.num_slots, DType::kInt64);
  run("sample", out, slots, rows, pool, lengths.as<int32_t>(), tables, seeds.as<int64_t>(), stream);
}

}  // namespace ft::cuda
