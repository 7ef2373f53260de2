// SPDX-License-Identifier: BSD-3-Clause
// Collectives of the GPUs of one node through each other's memory (device/arena.cuh). One-shot:
// every rank sends all of its message to all others and adds up what it gets; one trip. Two-shot:
// each rank gets its share of the message from all others, adds it up and sends the sum to all; two
// trips, fewer bytes. Sums are fp32 in rank order, so that every rank has the same bits.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/peer_arena.h"
#include "cuda/ranks.h"
#include "device/arena.cuh"
#include "device/pdl.cuh"
#include "device/rank_sum.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

using device::Arena;
using device::kExchangeThreads;
using device::Mailbox;
using device::Pack;

// `size` elements as packs; the last one may be filled up with zeros.
template <typename T>
struct Message {
  static constexpr int kPack = Pack<T>::kSize;
  T* data;
  int size;

  __device__ int packs() const { return (size + kPack - 1) / kPack; }

  __device__ uint4 load(int pack) const {
    const int first = pack * kPack;
    if (first + kPack <= size) return *reinterpret_cast<const uint4*>(data + first);
    Pack<T> tail;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      tail.lanes[i] = first + i < size ? data[first + i] : device::from_float<T>(0.0f);
    }
    return *reinterpret_cast<const uint4*>(&tail);
  }

  __device__ void store(int pack, uint4 value) const {
    const int first = pack * kPack;
    if (first + kPack <= size) {
      *reinterpret_cast<uint4*>(data + first) = value;
      return;
    }
    const Pack<T>& tail = *reinterpret_cast<const Pack<T>*>(&value);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (first + i < size) data[first + i] = tail.lanes[i];
    }
  }
};

// What becomes of one pack of every rank's message: their sum,
template <typename T>
struct Sum {
  Message<T> to;

  template <int kRanks>
  __device__ void operator()(const uint4 (&parts)[kRanks], int size, int pack) const {
    to.store(pack, device::sum_of_ranks<T>(parts, size));
  }
};

// or the packs side by side: out [rows, size * columns], row i holding row i of every rank.
template <typename T>
struct Columns {
  T* out;
  int columns;
  int elements;  // of one rank

  template <int kRanks>
  __device__ void operator()(const uint4 (&parts)[kRanks], int size, int pack) const {
    const int first = pack * Pack<T>::kSize;
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= size) break;
      if (columns % Pack<T>::kSize == 0) {
        *reinterpret_cast<uint4*>(out + at(first, r, size)) = parts[r];
        continue;
      }
      const Pack<T>& part = *reinterpret_cast<const Pack<T>*>(&parts[r]);
#pragma unroll
      for (int i = 0; i < Pack<T>::kSize; ++i) {
        if (first + i < elements) out[at(first + i, r, size)] = part.lanes[i];
      }
    }
  }

  __device__ int64_t at(int element, int rank, int size) const {
    const int row = element / columns;
    return (static_cast<int64_t>(row) * size + rank) * columns + element % columns;
  }
};

// Slot r of a mailbox holds the message of rank r.
template <typename T, int kRanks, typename Result>
__global__ void __launch_bounds__(kExchangeThreads, 2)
    one_shot_kernel(const __grid_constant__ Arena arena, Message<T> x, Result result,
                    int per_block) {
  device::wait_for_predecessor();
  const int first = blockIdx.x * per_block;
  const int count = min(per_block, x.packs() - first);
  const int thread = threadIdx.x;
  // On its way at the same time as the state of the mailbox, which tells where to write.
  uint4 pack = thread < count ? x.load(first + thread) : uint4{};
  const Mailbox mailbox(arena);
  const int rank = mailbox.rank(), size = mailbox.size();
  for (int i = thread; i < count; i += kExchangeThreads) {
    if (i != thread) pack = x.load(first + i);
    mailbox.template write_all<kRanks>(rank, i, pack);
  }
  if (mailbox.is_closed()) return;
  mailbox.clear();
  for (int i = thread; i < count; i += kExchangeThreads) {
    uint4 parts[kRanks];
    const auto others = [&](int r) { return r < size && r != rank; };
    if (!mailbox.read(parts, 0, i, others)) return;
    device::put_own(parts, rank, x.load(first + i));
    result(parts, size, first + i);
  }
  mailbox.finish(size, per_block);
}

// The message is cut into `size` chunks, rank r sums chunk r. Slot r holds what rank r sends for
// the sum of this rank, slot size + r the sum of rank r.
template <typename T, int kRanks>
__global__ void __launch_bounds__(kExchangeThreads, 2)
    two_shot_kernel(const __grid_constant__ Arena arena, Message<T> x, int chunk, int per_block) {
  device::wait_for_predecessor();
  const Mailbox mailbox(arena);
  if (mailbox.is_closed()) return;
  const int first = blockIdx.x * per_block;
  const int thread = threadIdx.x, rank = mailbox.rank(), size = mailbox.size();
  const auto count_of = [&](int r) {  // none where it is not positive
    return min(per_block, min(chunk, x.packs() - r * chunk) - first);
  };

  for (int step = 1; step < size; ++step) {
    const int to = mailbox.neighbour(step), count = count_of(to);
#pragma unroll 4
    for (int i = thread; i < count; i += kExchangeThreads) {
      mailbox.write(to, rank, i, x.load(to * chunk + first + i));
    }
  }
  mailbox.clear();

  for (int i = thread; i < count_of(rank); i += kExchangeThreads) {
    uint4 parts[kRanks];
    const auto others = [&](int r) { return r < size && r != rank; };
    if (!mailbox.read(parts, 0, i, others)) return;
    const int pack = rank * chunk + first + i;
    device::put_own(parts, rank, x.load(pack));
    const uint4 total = device::present(device::sum_of_ranks<T>(parts, size));
    mailbox.template write_all<kRanks>(size + rank, i, total);
    x.store(pack, total);
  }

  for (int i = thread; i < per_block; i += kExchangeThreads) {
    uint4 parts[kRanks];
    const auto summing = [&](int r) { return r < size && r != rank && i < count_of(r); };
    if (!mailbox.read(parts, size, i, summing)) return;
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (summing(r)) x.store(r * chunk + first + i, parts[r]);
    }
  }
  mailbox.finish(2 * size, per_block);
}

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// How `packs` are dealt to blocks: no more blocks than have something to do (device/arena.cuh).
struct Grid {
  int per_block;
  int blocks;

  explicit Grid(int64_t packs)
      : per_block(ceil_div(packs, std::min(ceil_div(packs, kExchangeThreads), device::kMaxBlocks))),
        blocks(ceil_div(packs, per_block)) {}
};

int64_t num_elements(const Tensor& x) {
  int64_t count = 1;
  for (int i = 0; i < x.ndim; ++i) count *= x.shape[i];
  return count;
}

// Packs of x, after the checks.
int64_t check(const char* op, const char* argument, const Tensor& x, int64_t max_bytes) {
  check_float(op, argument, x);
  check_on_gpu(op, argument, x);
  check_contiguous(op, argument, x);
  check_aligned(op, argument, x);
  const int64_t bytes = num_elements(x) * (x.dtype == DType::kFloat32 ? 4 : 2);
  check_that(op, argument, bytes <= max_bytes, "is larger than the arena's slots");
  return ceil_div(bytes, sizeof(uint4));
}

}  // namespace

void all_reduce_one_shot(const Tensor& x, const PeerArena& arena, int64_t stream) {
  const char* const op = "all_reduce_one_shot";
  const int64_t packs = check(op, "x", x, arena.slot_bytes());
  if (packs == 0) return;
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    dispatch_ranks(arena.view().size, [&](auto ranks) {
      const Message<T> message{x.as<T>(), static_cast<int>(num_elements(x))};
      const Grid grid(packs);
      launch(op, one_shot_kernel<T, ranks(), Sum<T>>, grid.blocks, kExchangeThreads, 0, stream,
             arena.view(), message, Sum<T>{message}, grid.per_block);
    });
  });
}

void all_reduce_two_shot(const Tensor& x, const PeerArena& arena, int64_t stream) {
  const char* const op = "all_reduce_two_shot";
  const int size = arena.view().size;
  const int64_t packs = check(op, "x", x, arena.slot_bytes() * size);
  if (packs == 0) return;
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    dispatch_ranks(size, [&](auto ranks) {
      const int chunk = ceil_div(packs, size);
      const Grid grid(chunk);
      launch(op, two_shot_kernel<T, ranks()>, grid.blocks, kExchangeThreads, 0, stream,
             arena.view(), Message<T>{x.as<T>(), static_cast<int>(num_elements(x))}, chunk,
             grid.per_block);
    });
  });
}

void all_gather_columns(const Tensor& out, const Tensor& x, const PeerArena& arena,
                        int64_t stream) {
  const char* const op = "all_gather_columns";
  const int size = arena.view().size;
  check_shape(op, "x", x, {-1, -1});
  const int64_t packs = check(op, "x", x, arena.slot_bytes());
  check_shape(op, "out", out, {x.shape[0], x.shape[1] * size});
  check_dtype(op, "out", out, x.dtype);
  check_on_gpu(op, "out", out);
  check_contiguous(op, "out", out);
  check_aligned(op, "out", out);
  if (packs == 0) return;
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    dispatch_ranks(size, [&](auto ranks) {
      const int elements = static_cast<int>(num_elements(x));
      const Columns<T> columns{out.as<T>(), static_cast<int>(x.shape[1]), elements};
      const Grid grid(packs);
      launch(op, one_shot_kernel<T, ranks(), Columns<T>>, grid.blocks, kExchangeThreads, 0, stream,
             arena.view(), Message<T>{x.as<T>(), elements}, columns, grid.per_block);
    });
  });
}

}  // namespace ft::cuda
