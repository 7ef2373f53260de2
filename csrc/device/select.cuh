// SPDX-License-Identifier: BSD-3-Clause
// Which tokens of a row top-k and top-p keep, without a sort: a radix descent to the last one that
// is kept, by integer sums, which do not depend on their order.
#pragma once

#include <cstdint>

#include "device/cluster.cuh"
#include "device/row.cuh"
#include "device/share.cuh"
#include "device/warp.cuh"

namespace ft::device {

constexpr int kSelectThreads = 512;
constexpr int kDigitBits = 10;
constexpr int kBins = 1 << kDigitBits;
static_assert(kBins == 2 * kSelectThreads, "a thread adds up two bins");

struct Bin {
  uint64_t before, weight;  // of the bins in front of it, and its own
  int index;
};

// Shared memory of a descent.
struct Selection {
  uint64_t of_warps[kSelectThreads / 32];
  Bin found;
  // 64-bit sums in two halves; two histograms, since other blocks read one while the next is
  // cleared.
  alignas(16) uint32_t low[2][kBins], high[2][kBins];
};

__device__ __forceinline__ void clear(Selection& shared, int histogram) {
  for (int i = threadIdx.x; i < kBins; i += kSelectThreads) {
    shared.low[histogram][i] = shared.high[histogram][i] = 0;
  }
}

__device__ __forceinline__ void add(Selection& shared, int histogram, int bin, uint64_t weight) {
  const uint32_t added = static_cast<uint32_t>(weight);
  const uint32_t carry = atomicAdd(&shared.low[histogram][bin], added) > ~added ? 1 : 0;
  const uint32_t upper = static_cast<uint32_t>(weight >> 32) + carry;
  if (upper != 0) atomicAdd(&shared.high[histogram][bin], upper);
}

// Two bins of the cluster's histogram for each thread.
struct Bins {
  uint64_t weight[2];
  uint64_t start;  // weight of the bins in front of them
  uint64_t total;  // of the whole histogram
};

template <int kBlocks>
__device__ __forceinline__ Bins bins_of(Selection& shared, int histogram) {
  uint32_t* const low = &shared.low[histogram][2 * threadIdx.x];
  uint32_t* const high = &shared.high[histogram][2 * threadIdx.x];
  Bins bins{};
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    const uint2 lower = *reinterpret_cast<const uint2*>(Cluster<kBlocks>::at(low, block));
    const uint2 upper = *reinterpret_cast<const uint2*>(Cluster<kBlocks>::at(high, block));
    bins.weight[0] += (static_cast<uint64_t>(upper.x) << 32) + lower.x;
    bins.weight[1] += (static_cast<uint64_t>(upper.y) << 32) + lower.y;
  }
  const uint64_t until = warp_prefix(bins.weight[0] + bins.weight[1]);
  if (lane() == 31) shared.of_warps[warp()] = until;
  __syncthreads();
  bins.start = until - bins.weight[0] - bins.weight[1];
  for (int i = 0; i < kSelectThreads / 32; ++i) {
    if (i < warp()) bins.start += shared.of_warps[i];
    bins.total += shared.of_warps[i];
  }
  return bins;
}

// The bin in which the weight reaches `limit`, which is above 0 and at most the total.
__device__ __forceinline__ Bin bin_at(Selection& shared, const Bins& bins, uint64_t limit) {
  uint64_t before = bins.start;
  for (int i = 0; i < 2; ++i) {
    if (before < limit && limit <= before + bins.weight[i]) {
      shared.found = {before, bins.weight[i], 2 * static_cast<int>(threadIdx.x) + i};
    }
    before += bins.weight[i];
  }
  __syncthreads();
  return shared.found;
}

// The tokens that have a mass, in the order of falling shares and, among equal ones, of rising
// indices: a token's place is a number that is smaller for an earlier one.
struct Order {
  float largest;   // logit of the row
  int index_bits;  // enough for the vocabulary

  __device__ int place_bits() const { return kShareBits + index_bits; }
  __device__ uint64_t place(float share, int index) const {
    return static_cast<uint64_t>(share_rank(share)) << index_bits | static_cast<uint32_t>(index);
  }
  __device__ float share(uint64_t place) const {
    return share_at(static_cast<uint32_t>(place >> index_bits));
  }
};

// What top-k sums up, and its limit.
struct Count {
  int top_k;
  __device__ uint64_t of(float) const { return 1; }
  __device__ uint64_t limit(uint64_t) const { return top_k; }
};

// What top-p sums up, and its limit.
struct Mass {
  float top_p;
  __device__ uint64_t of(float share) const { return mass_of(share); }
  __device__ uint64_t limit(uint64_t total) const {
    return static_cast<uint64_t>(ceil(static_cast<double>(total) * static_cast<double>(top_p)));
  }
};

// Of the tokens up to place `end`, the last one that is kept when a token is kept while those in
// front of it weigh less than the limit: a place from that token's to the one before the next
// token's. Each round adds up what has the next digit of the place in common, below the prefix that
// is known. round: counts on through all descents of a row; histogram round % 2 is clear.
template <int kBlocks, typename Weight>
__device__ uint64_t last_kept(Selection& shared, const Segment& segment, const Order& order,
                              uint64_t end, const Weight& weight, int& round) {
  uint64_t last = ~uint64_t{0}, prefix = 0, limit = 0;  // limit: of what has the prefix
  for (int bits = order.place_bits(), below; bits > 0; bits = below) {
    below = max(bits - kDigitBits, 0);
    const int histogram = round++ % 2;
    for_each(segment, [&](int index, float logit) {
      const float share = share_of(logit, order.largest);
      const uint64_t place = order.place(share, index);
      if (share < kSmallestShare || place > end || place >> bits != prefix) return;
      const int bin = static_cast<int>((place >> below) - (prefix << (bits - below)));
      add(shared, histogram, bin, weight.of(share));
    });
    Cluster<kBlocks>::sync();
    clear(shared, 1 - histogram);  // which all blocks have read
    const Bins bins = bins_of<kBlocks>(shared, histogram);
    if (bits == order.place_bits()) {
      limit = weight.limit(bins.total);
      if (bins.total <= limit) break;
    }
    const Bin found = bin_at(shared, bins, limit);
    limit -= found.before;
    prefix = (prefix << (bits - below)) + found.index;
    last = ((prefix + 1) << below) - 1;
    if (found.weight < 2 * weight.of(order.share(last))) break;  // too little for two tokens
  }
  return min(last, end);
}

}  // namespace ft::device
