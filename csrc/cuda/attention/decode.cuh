// SPDX-License-Identifier: BSD-3-Clause
// Attention of sequences with a single query, 16-bit types. An item is a chunk of kChunkKeys keys
// and up to 8 query heads of one key-value head; blocks walk the items with a stride, so that the
// grid does not depend on the lengths. Each warp streams groups of 16 keys through a ring of its
// own in shared memory, on across items, and the first ones while the kernel before still runs:
// only the newest key is of this step, all others were written before the step began. Products are
// K q^T and V^T p^T, keys and dims being the rows of the tensor cores. The chunks of a longer
// sequence leave their states in the workspace, and the block that comes last merges them in the
// order of the chunks. (Flash-Decoding, pytorch.org/blog/flash-decoding; Dao et al., arXiv
// 2205.14135)
#pragma once

#include <algorithm>

#include "cuda/attention/attention.cuh"
#include "cuda/attention/limits.h"
#include "cuda/launch.h"
#include "device/copy_async.cuh"
#include "device/pdl.cuh"
#include "device/tensor_core.cuh"
#include "device/vec.cuh"

namespace ft::cuda {

constexpr int kMaxDecodeWarps = 8;
constexpr int kItemHeads = 8;   // query heads of an item, at most: the columns of a product
constexpr int kGroupKeys = 16;  // keys that a warp takes at a time: the rows of a product

struct DecodeItem {
  int sequence, length;
  int chunk, first_chunk, num_chunks;  // in the plan; those of the sequence that have visible keys
  int begin, end;                      // the chunk's visible keys
  int kv_head, head, num_heads;        // query heads [head, head + num_heads)
  unsigned counter;

  // The first group of keys.
  __device__ int first_key() const { return begin / kGroupKeys * kGroupKeys; }
};

template <typename T>
struct DecodePlan {
  const Attention<T>& attention;
  const int* cumulative;  // chunks up to each sequence, in shared memory
  int group, tiles_per_kv_head, num_tiles, num_items;

  __device__ DecodePlan(const Attention<T>& a, const int* chunks)
      : attention(a), cumulative(chunks) {
    group = a.num_heads / a.num_kv_heads;
    tiles_per_kv_head = (group + kItemHeads - 1) / kItemHeads;
    num_tiles = a.num_kv_heads * tiles_per_kv_head;
    num_items = cumulative[a.num_sequences] * num_tiles;
  }

  __device__ DecodeItem operator[](int index) const {
    DecodeItem item;
    item.chunk = index / num_tiles;
    const int tile = index % num_tiles, part = tile % tiles_per_kv_head;
    item.kv_head = tile / tiles_per_kv_head;
    item.head = item.kv_head * group + part * kItemHeads;
    item.num_heads = min(kItemHeads, group - part * kItemHeads);
    int low = 0, high = attention.num_sequences - 1;
    while (low < high) {  // to the last sequence that starts at or before the chunk
      const int middle = (low + high + 1) / 2;
      if (cumulative[middle] <= item.chunk) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    item.sequence = low;
    item.length = attention.seq_lens[low];
    item.counter = static_cast<unsigned>(cumulative[low] * num_tiles + tile);
    const int oldest = attention.oldest_visible(item.length - 1);
    const int start = (item.chunk - cumulative[low]) * kChunkKeys;
    item.begin = max(start, oldest);
    item.end = min(start + kChunkKeys, item.length);
    item.first_chunk = cumulative[low] + oldest / kChunkKeys;
    item.num_chunks = (item.length + kChunkKeys - 1) / kChunkKeys - oldest / kChunkKeys;
    return item;
  }
};

template <int kHeadDim>
struct DecodeShape {
  // Enough that the rings of a multiprocessor hold what its share of the bandwidth brings in 1 us.
  static constexpr int kStages = kHeadDim <= 128 ? 2 : 1;
  static constexpr int kRowBytes = kHeadDim * 2 + 16;  // odd in units of 16: no bank conflicts
  static constexpr int kTileBytes = kGroupKeys * kRowBytes;
  static constexpr int kSumStride = kHeadDim + 4;

  // Of one warp: a ring for keys, one for values, and its state when an item is done.
  static constexpr size_t warp_bytes(int num_heads) {
    return 2 * kStages * kTileBytes + num_heads * (kSumStride + 2) * sizeof(float);
  }
};

// The warps' states of one item, in shared memory.
template <int kHeadDim>
struct DecodeStates {
  float* sums;     // [warp, head, kSumStride]
  float2* totals;  // [warp, head]: best score, total weight
  int num_warps, num_heads;

  __device__ float* sum(int warp, int head) const {
    return sums + (warp * num_heads + head) * DecodeShape<kHeadDim>::kSumStride;
  }
  __device__ float2& total(int warp, int head) const { return totals[warp * num_heads + head]; }
};

// Online softmax of a warp over 8 heads. The lane holds heads 2t and 2t + 1, and of their sums dims
// 16 i + g and 16 i + g + 8: sums[i] = (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <int kHeadDim>
struct DecodeState {
  float best[2] = {-INFINITY, -INFINITY};  // times the exponent's factor
  float total[2] = {0.0f, 0.0f};
  float sums[kHeadDim / 16][4] = {};

  __device__ void rescale(const float (&next_best)[2]) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const float correction = device::exp2_fast(best[column] - next_best[column]);
      best[column] = next_best[column];
      total[column] *= correction;
#pragma unroll
      for (int i = 0; i < kHeadDim / 16; ++i) {
        sums[i][column] *= correction;
        sums[i][column + 2] *= correction;
      }
    }
  }

  __device__ void store(const DecodeStates<kHeadDim>& to, int warp, int lane, int num_heads) const {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const int head = lane % 4 * 2 + column;
      if (head >= num_heads) continue;
      if (lane < 4) to.total(warp, head) = {best[column], total[column]};
      float* sum = to.sum(warp, head) + lane / 4;
#pragma unroll
      for (int i = 0; i < kHeadDim / 16; ++i) {
        sum[i * 16] = sums[i][column];
        sum[i * 16 + 8] = sums[i][column + 2];
      }
    }
  }

  // Adds what a block has left of `chunk` in the workspace.
  template <typename T>
  __device__ void add(const Attention<T>& a, const DecodeItem& item, int chunk, int lane) {
    float2 found[2];
    float next_best[2], weight[2];
    float values[kHeadDim / 16][4];
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const int head = lane % 4 * 2 + column;
      const bool valid = head < item.num_heads;
      const int64_t at = static_cast<int64_t>(chunk) * a.num_heads + item.head + head;
      found[column] = valid ? __ldcg(&a.partial_totals[at]) : float2{0.0f, 0.0f};
#pragma unroll
      for (int i = 0; i < kHeadDim / 8; ++i) {
        const int dim = i * 8 + lane / 4;
        values[i / 2][i % 2 * 2 + column] =
            valid && dim < a.head_dim ? __ldcg(&a.partial_sums[at * a.head_dim + dim]) : 0.0f;
      }
      next_best[column] = fmaxf(best[column], found[column].x);
    }
    rescale(next_best);
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      weight[column] = device::exp2_fast(found[column].x - best[column]);
      total[column] += weight[column] * found[column].y;
#pragma unroll
      for (int i = 0; i < kHeadDim / 16; ++i) {
        sums[i][column] += weight[column] * values[i][column];
        sums[i][column + 2] += weight[column] * values[i][column + 2];
      }
    }
  }
};

// Brings the groups of one warp into its rings, in the order in which they are used.
template <typename T, int kHeadDim>
class DecodeStream {
  using Shape = DecodeShape<kHeadDim>;

 public:
  __device__ DecodeStream(const DecodePlan<T>& plan, char* ring, int warp, int num_warps, int lane)
      : plan_(plan),
        ring_(ring),
        index_(blockIdx.x),
        first_(warp * kGroupKeys),
        step_(num_warps * kGroupKeys),
        lane_(lane) {
    enter_item();
  }

  __device__ char* keys(int stage) const { return ring_ + stage * Shape::kTileBytes; }
  __device__ char* values(int stage) const { return keys(Shape::kStages + stage); }

  // Whether the next group holds a key of this step.
  __device__ bool has_newest() const {
    return !is_done() && min(key_ + kGroupKeys, item_.end) == item_.length;
  }

  // A copy group each, empty at the end; values() of a stage ends the turn of its group.
  __device__ void copy_keys(int stage) { copy(keys(stage), plan_.attention.k_cache); }
  __device__ void copy_values(int stage) {
    copy(values(stage), plan_.attention.v_cache);
    if (!is_done()) advance();
  }

 private:
  __device__ bool is_done() const { return index_ >= plan_.num_items; }

  __device__ void enter_item() {
    for (; !is_done(); index_ += gridDim.x) {
      item_ = plan_[index_];
      key_ = item_.first_key() + first_;
      if (key_ < item_.end) return find_row();
    }
  }

  __device__ void advance() {
    key_ += step_;
    if (key_ < item_.end) return find_row();
    index_ += gridDim.x;
    enter_item();
  }

  __device__ bool is_visible(int row) const {
    return key_ + row >= item_.begin && key_ + row < item_.end;
  }

  // Lane i looks up key i % 16, long before it is needed.
  __device__ void find_row() {
    const Attention<T>& a = plan_.attention;
    const int row = lane_ % kGroupKeys, page = (key_ + row) / a.block_size;
    slot_ = key_ + row - page * a.block_size;
    page_ = is_visible(row) ? a.block_tables[item_.sequence * a.table_stride + page] : 0;
  }

  __device__ void copy(char* tile, const T* cache) {
    if (!is_done()) {
      const Attention<T>& a = plan_.attention;
      constexpr int kPacks = kHeadDim / 8;
      const T* head = cache + item_.kv_head * a.kv_head_stride;
      const int64_t offset = a.key_offset(page_, slot_);
#pragma unroll
      for (int i = 0; i < kPacks * kGroupKeys / 32; ++i) {
        const int row = (i * 32 + lane_) / kPacks, pack = (i * 32 + lane_) % kPacks;
        const int64_t from = __shfl_sync(0xffffffffu, offset, row);
        const bool valid = is_visible(row) && pack * 8 < a.head_dim;
        device::copy_async(tile + row * Shape::kRowBytes + pack * 16,
                           valid ? head + from + pack * 8 : cache, valid);
      }
    }
    device::commit_copies();
  }

  const DecodePlan<T>& plan_;
  char* ring_;
  DecodeItem item_;
  int index_, key_, page_, slot_;
  int first_, step_, lane_;
};

// The queries of an item as the second operand: lane (g, t) holds head g, dims 16 i + 2t and + 8.
template <typename T, int kHeadDim>
__device__ void load_queries(uint32_t (&queries)[kHeadDim / 16][2], const Attention<T>& a,
                             const DecodeItem& item, int lane) {
  const bool valid = lane / 4 < item.num_heads;
  const T* query = a.query(a.cu_seqlens_q[item.sequence], item.head + (valid ? lane / 4 : 0));
#pragma unroll
  for (int i = 0; i < kHeadDim / 8; ++i) {
    const int dim = i * 8 + lane % 4 * 2;
    queries[i / 2][i % 2] =
        valid && dim < a.head_dim ? *reinterpret_cast<const uint32_t*>(query + dim) : 0;
  }
}

// One group of keys for all heads of the item: the scores of keys g, g, g + 8, g + 8 of the group
// and heads 2t, 2t + 1, 2t, 2t + 1.
template <typename T, int kHeadDim>
__device__ void score_keys(float (&scores)[4], const char* keys,
                           const uint32_t (&queries)[kHeadDim / 16][2], int lane) {
  float even[4] = {}, odd[4] = {};  // two chains of products, for half the latency
  const char* row = keys + lane % 16 * DecodeShape<kHeadDim>::kRowBytes + lane / 16 * 16;
#pragma unroll
  for (int i = 0; i < kHeadDim / 16; ++i) {
    uint32_t tile[4];
    device::load_matrices(tile, row + i * 32);
    device::product<T>(i % 2 == 0 ? even : odd, tile, queries[i][0], queries[i][1]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] = even[i] + odd[i];
}

// Turns scores into weights and makes room for them in the state.
template <int kHeadDim>
__device__ void weigh(float (&scores)[4], DecodeState<kHeadDim>& state, const Score& score,
                      const DecodeItem& item, int key, const float (&slopes)[2]) {
  float next_best[2] = {state.best[0], state.best[1]};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = key + i / 2 * 8;
    scores[i] =
        at >= item.begin && at < item.end
            ? score(scores[i], slopes[i % 2], item.length - 1 - at) * score.exponent_factor()
            : -INFINITY;
    next_best[i % 2] = fmaxf(next_best[i % 2], scores[i]);
  }
#pragma unroll
  for (int column = 0; column < 2; ++column) {
#pragma unroll
    for (int width = 4; width < 32; width *= 2) {
      next_best[column] =
          fmaxf(next_best[column], __shfl_xor_sync(0xffffffffu, next_best[column], width));
    }
  }
  state.rescale(next_best);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scores[i] = device::exp2_fast(scores[i] - state.best[i % 2]);
    state.total[i % 2] += scores[i];  // of the lane's keys; summed over lanes at the end
  }
}

template <typename T, int kHeadDim>
__device__ void add_values(DecodeState<kHeadDim>& state, const char* values,
                           const float (&weights)[4], int lane) {
  const uint32_t low = device::transpose(device::pack<T>(weights[0], weights[1]));
  const uint32_t high = device::transpose(device::pack<T>(weights[2], weights[3]));
  const char* row =
      values + (lane % 8 + lane / 16 * 8) * DecodeShape<kHeadDim>::kRowBytes + lane / 8 % 2 * 16;
#pragma unroll
  for (int i = 0; i < kHeadDim / 16; ++i) {
    uint32_t tile[4];
    device::load_transposed(tile, row + i * 32);
    device::product<T>(state.sums[i], tile, low, high);
  }
}

// Merges the warps' states in their order: into the result, or into the workspace if `is_partial`.
template <typename T, int kHeadDim>
__device__ void merge_warps(const Attention<T>& a, const DecodeItem& item,
                            const DecodeStates<kHeadDim>& states, bool is_partial) {
  for (int i = threadIdx.x; i < item.num_heads * (kHeadDim / 4); i += blockDim.x) {
    const int head = i / (kHeadDim / 4), dim = i % (kHeadDim / 4) * 4;
    if (dim >= a.head_dim) continue;
    float best = -INFINITY, total = 0.0f;
    float4 sum{0.0f, 0.0f, 0.0f, 0.0f};
    for (int warp = 0; warp < states.num_warps; ++warp) {
      best = fmaxf(best, states.total(warp, head).x);
    }
    for (int warp = 0; warp < states.num_warps; ++warp) {
      const float weight = device::exp2_fast(states.total(warp, head).x - best);
      const float4 part = *reinterpret_cast<const float4*>(states.sum(warp, head) + dim);
      total += weight * states.total(warp, head).y;
      sum.x += weight * part.x;
      sum.y += weight * part.y;
      sum.z += weight * part.z;
      sum.w += weight * part.w;
    }
    if (is_partial) {
      const int64_t at = static_cast<int64_t>(item.chunk) * a.num_heads + item.head + head;
      *reinterpret_cast<float4*>(a.partial_sums + at * a.head_dim + dim) = sum;
      if (dim == 0) a.partial_totals[at] = {best, total};
    } else {
      const float scale = 1.0f / total;
      const uint2 packed{device::pack<T>(sum.x * scale, sum.y * scale),
                         device::pack<T>(sum.z * scale, sum.w * scale)};
      T* to = a.result(a.cu_seqlens_q[item.sequence], item.head + head) + dim;
      *reinterpret_cast<uint2*>(to) = packed;
    }
  }
}

// Whether this block is the last of the item's sequence and heads; the counter is zero again then.
__device__ __forceinline__ bool is_last(unsigned* counter, int num_chunks, int* shared_flag) {
  __syncthreads();  // all threads have left their part in the workspace
  if (threadIdx.x == 0) {
    __threadfence();
    *shared_flag = atomicInc(counter, num_chunks - 1) == static_cast<unsigned>(num_chunks - 1);
    __threadfence();
  }
  __syncthreads();
  return *shared_flag != 0;
}

template <typename T, int kHeadDim>
__device__ void merge_chunks(const Attention<T>& a, const DecodeItem& item,
                             const DecodeStates<kHeadDim>& states, int warp, int lane) {
  DecodeState<kHeadDim> state;
  const int end = item.first_chunk + item.num_chunks;
  for (int chunk = item.first_chunk + warp; chunk < end; chunk += states.num_warps) {
    state.add(a, item, chunk, lane);
  }
  state.store(states, warp, lane, item.num_heads);
  __syncthreads();
  merge_warps<T>(a, item, states, false);
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kMaxDecodeWarps * 32) decode_kernel(const Attention<T> a) {
  device::launch_dependents();
  using Shape = DecodeShape<kHeadDim>;
  extern __shared__ __align__(16) char shared[];
  __shared__ int flag;
  const int num_warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int max_heads = min(kItemHeads, a.num_heads / a.num_kv_heads);
  DecodeStates<kHeadDim> states;
  states.sums =
      reinterpret_cast<float*>(shared + num_warps * 2 * Shape::kStages * Shape::kTileBytes);
  states.num_warps = num_warps;
  states.num_heads = max_heads;
  states.totals = reinterpret_cast<float2*>(states.sum(num_warps, 0));
  int* cumulative = reinterpret_cast<int*>(states.totals + num_warps * max_heads);
  for (int i = threadIdx.x; i <= a.num_sequences; i += blockDim.x) cumulative[i] = a.work[i];
  __syncthreads();

  const DecodePlan<T> plan(a, cumulative);
  const Score score(a);
  DecodeStream<T, kHeadDim> stream(plan, shared + warp * 2 * Shape::kStages * Shape::kTileBytes,
                                   warp, num_warps, lane);
  int filled = 0;
  for (; filled < Shape::kStages && !stream.has_newest(); ++filled) {
    stream.copy_keys(filled);
    stream.copy_values(filled);
  }
  device::wait_for_predecessor();
  for (; filled < Shape::kStages; ++filled) {
    stream.copy_keys(filled);
    stream.copy_values(filled);
  }

  int stage = 0;
  for (int index = blockIdx.x; index < plan.num_items; index += gridDim.x) {
    const DecodeItem item = plan[index];
    if (item.begin >= item.end) continue;  // the window begins behind this chunk
    uint32_t queries[kHeadDim / 16][2];
    load_queries<T, kHeadDim>(queries, a, item, lane);
    float slopes[2];
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const int head = lane % 4 * 2 + column;
      slopes[column] = head < item.num_heads ? a.slope(item.head + head) : 0.0f;
    }
    DecodeState<kHeadDim> state;
    for (int key = item.first_key() + warp * kGroupKeys; key < item.end;
         key += num_warps * kGroupKeys) {
      float weights[4];
      // Behind the copies that are waited for, each stage has one of keys and one of values.
      device::wait_for_copies<2 * Shape::kStages - 1>();
      __syncwarp();
      score_keys<T, kHeadDim>(weights, stream.keys(stage), queries, lane);
      __syncwarp();
      stream.copy_keys(stage);
      weigh(weights, state, score, item, key + lane / 4, slopes);
      device::wait_for_copies<2 * Shape::kStages - 1>();
      __syncwarp();
      add_values<T, kHeadDim>(state, stream.values(stage), weights, lane);
      __syncwarp();
      stream.copy_values(stage);
      stage = stage + 1 == Shape::kStages ? 0 : stage + 1;
    }
#pragma unroll
    for (int column = 0; column < 2; ++column) {
#pragma unroll
      for (int width = 4; width < 32; width *= 2) {
        state.total[column] += __shfl_xor_sync(0xffffffffu, state.total[column], width);
      }
    }
    __syncthreads();  // the states of the item before were read
    state.store(states, warp, lane, item.num_heads);
    __syncthreads();
    const bool is_partial = item.num_chunks > 1;
    if (is_partial && item.chunk >= a.num_partials) __trap();  // the workspace is too small
    merge_warps<T>(a, item, states, is_partial);
    if (is_partial && is_last(&a.counters[item.counter], item.num_chunks, &flag)) {
      merge_chunks<T>(a, item, states, warp, lane);
    }
  }
}

// The same for every batch, since the order of sums depends on it.
template <int kHeadDim>
int num_decode_warps(int num_heads) {
  constexpr int kReserved = 6 * 1024;  // of each block: by the system, and for the plan
  const size_t room = shared_bytes_per_multiprocessor() / 2 - kReserved;
  const size_t fitting = room / DecodeShape<kHeadDim>::warp_bytes(num_heads);
  return static_cast<int>(std::clamp<size_t>(fitting, 1, kMaxDecodeWarps));
}

template <typename T, int kHeadDim>
void launch_decode_of(const Attention<T>& attention, int max_seqlen_k, int64_t stream) {
  const char* op = "paged_attention";
  const auto kernel = decode_kernel<T, kHeadDim>;
  const int group = attention.num_heads / attention.num_kv_heads;
  const int num_heads = std::min(group, kItemHeads);
  const int num_warps = num_decode_warps<kHeadDim>(num_heads);
  const size_t bytes = num_warps * DecodeShape<kHeadDim>::warp_bytes(num_heads) +
                       (attention.num_sequences + 1) * sizeof(int);
  static const bool allowed = (allow_shared(op, kernel, shared_bytes_per_block() - 1024), true);
  (void)allowed;
  int blocks = 0;
  check_cuda(op,
             cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, num_warps * 32, bytes));
  const int64_t tiles = attention.num_kv_heads * ((group + kItemHeads - 1) / kItemHeads);
  const int64_t chunks = (max_seqlen_k + kChunkKeys - 1) / kChunkKeys;
  const int64_t items = std::max<int64_t>(1, attention.num_sequences * chunks * tiles);
  const int64_t resident = static_cast<int64_t>(std::max(1, blocks)) * num_multiprocessors();
  launch(op, kernel, static_cast<unsigned>(std::min(items, resident)), num_warps * 32, bytes,
         stream, attention);
}

template <typename T>
void launch_decode(const Attention<T>& attention, int max_seqlen_k, int64_t stream) {
  const int head_dim = attention.head_dim;
  if (head_dim <= 64) return launch_decode_of<T, 64>(attention, max_seqlen_k, stream);
  if (head_dim <= 80) return launch_decode_of<T, 80>(attention, max_seqlen_k, stream);
  if (head_dim <= 96) return launch_decode_of<T, 96>(attention, max_seqlen_k, stream);
  if (head_dim <= 128) return launch_decode_of<T, 128>(attention, max_seqlen_k, stream);
  launch_decode_of<T, 256>(attention, max_seqlen_k, stream);
}

}  // namespace ft::cuda
