// SPDX-License-Identifier: BSD-3-Clause
// A sum over ranks (all_reduce.cu), the residual sum and the norm behind it (norm.cu) in one
// kernel, with the bits of the two kernels one after the other. A block exchanges whole rows [H],
// which its threads hold as norm.cu's do. One-shot: a block sums its rows and normalises them.
// Two-shot: rank r sums the r-th share of the rows, and block b normalises what block b of every
// rank has summed.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/peer_arena.h"
#include "cuda/ranks.h"
#include "cuda/row_threads.h"
#include "device/arena.cuh"
#include "device/pdl.cuh"
#include "device/rank_sum.cuh"
#include "device/row_norm.cuh"

namespace ft::cuda {
namespace {

using device::Arena;
using device::Mailbox;
using device::NormArguments;
using device::Pack;

template <typename T>
__device__ __forceinline__ uint4& words(Pack<T>& pack) {
  return reinterpret_cast<uint4&>(pack);
}

// Where a pack of a one-shot message lies. Such a message may be longer than a slot, and goes on in
// one of those that are for a second trip.
struct Place {
  int slot, index;

  __device__ Place(const Mailbox& mailbox, int pack)
      : slot(pack < mailbox.capacity() ? 0 : mailbox.size()),
        index(slot == 0 ? pack : pack - mailbox.capacity()) {}
};

template <typename T, int kPacks, bool kCentred, int kRanks>
__global__ void __launch_bounds__(max_row_threads(Pack<T>::kSize, kPacks))
    one_shot_norm_kernel(const __grid_constant__ Arena arena, NormArguments<T> a, int per_block) {
  constexpr int kLanes = Pack<T>::kSize;
  using Norm = device::RowNorm<T, kLanes, kPacks, kCentred>;
  __shared__ device::NormPartials partials[2];
  Norm norm(a);
  device::wait_for_predecessor();
  const int first = blockIdx.x * per_block, rows = min(per_block, a.num_rows - first);
  typename Norm::Row x, residual;
  x.load(a.x[first], a.size);  // while the state of the mailbox comes, which tells where to write
  const Mailbox mailbox(arena);
  const int rank = mailbox.rank(), size = mailbox.size(), packs = a.size / kLanes;
  for (int row = 0; row < rows; ++row) {
    if (row > 0) x.load(a.x[first + row], a.size);
    x.each(a.size, [&](int i, int at) {
      const Place to(mailbox, row * packs + at / kLanes);
      mailbox.template write_all<kRanks>(to.slot + rank, to.index, words(x.packs[i]));
    });
  }
  if (mailbox.is_closed()) return;
  mailbox.clear();
  for (int row = 0; row < rows; ++row) {
    if (rows > 1) x.load(a.x[first + row], a.size);
    residual.load(a.residual[first + row], a.size);
    bool has_come = true;
    x.each(a.size, [&](int i, int at) {
      uint4 parts[kRanks];
      const Place from(mailbox, row * packs + at / kLanes);
      const auto others = [&](int r) { return r < size && r != rank; };
      has_come = has_come && mailbox.read(parts, from.slot, from.index, others);
      if (!has_come) return;
      device::put_own(parts, rank, words(x.packs[i]));
      words(x.packs[i]) = device::sum_of_ranks<T>(parts, size);
    });
    if (!has_come) return;
    norm.add(a, first + row, x, residual);
    norm.store(a, first + row, x, partials[row % 2]);
  }
  const int sent = per_block * packs;
  mailbox.finish(sent <= mailbox.capacity() ? size : 2 * size, min(sent, mailbox.capacity()));
}

// The rows are cut into `size` shares of `share` rows. Slots as in all_reduce.cu: r holds what rank
// r sends for the sum of this rank, size + r the sum of rank r.
template <typename T, int kPacks, bool kCentred, int kRanks>
__global__ void __launch_bounds__(max_row_threads(Pack<T>::kSize, kPacks))
    two_shot_norm_kernel(const __grid_constant__ Arena arena, NormArguments<T> a, int share,
                         int per_block) {
  constexpr int kLanes = Pack<T>::kSize;
  using Norm = device::RowNorm<T, kLanes, kPacks, kCentred>;
  __shared__ device::NormPartials partials[2];
  Norm norm(a);
  device::wait_for_predecessor();
  const Mailbox mailbox(arena);
  if (mailbox.is_closed()) return;
  const int first = blockIdx.x * per_block;
  const int rank = mailbox.rank(), size = mailbox.size(), packs = a.size / kLanes;
  const auto rows_of = [&](int r) {  // none where it is not positive
    return min(per_block, min(share, a.num_rows - r * share) - first);
  };
  typename Norm::Row x, residual;
  bool has_come = true;

  for (int step = 1; step < size; ++step) {
    const int to = mailbox.neighbour(step);
    for (int row = 0; row < rows_of(to); ++row) {
      x.load(a.x[to * share + first + row], a.size);
      x.each(a.size, [&](int i, int at) {
        mailbox.write(to, rank, row * packs + at / kLanes, words(x.packs[i]));
      });
    }
  }
  mailbox.clear();

  for (int row = 0; row < rows_of(rank); ++row) {
    T* const own = a.x[rank * share + first + row];
    x.load(own, a.size);
    x.each(a.size, [&](int i, int at) {
      uint4 parts[kRanks];
      const int index = row * packs + at / kLanes;
      const auto others = [&](int r) { return r < size && r != rank; };
      has_come = has_come && mailbox.read(parts, 0, index, others);
      if (!has_come) return;
      device::put_own(parts, rank, words(x.packs[i]));
      words(x.packs[i]) = device::present(device::sum_of_ranks<T>(parts, size));
      mailbox.template write_all<kRanks>(size + rank, index, words(x.packs[i]));
      device::store_pack(own + at, x.packs[i]);
    });
    if (!has_come) return;
  }

  int turn = 0;
  for (int step = 0; step < size; ++step) {  // this rank's own while the others' are on their way
    const int r = mailbox.neighbour(step);
    for (int row = 0; row < rows_of(r); ++row) {
      const int at_row = r * share + first + row;
      residual.load(a.residual[at_row], a.size);
      if (r == rank) x.load(a.x[at_row], a.size);
      x.each(a.size, [&](int i, int at) {
        const int index = row * packs + at / kLanes;
        has_come = has_come && (r == rank || mailbox.read_one(words(x.packs[i]), r, size, index));
      });
      if (!has_come) return;
      norm.add(a, at_row, x, residual);
      norm.store(a, at_row, x, partials[turn++ % 2]);
    }
  }
  mailbox.finish(2 * size, per_block * packs);
}

// How `rows` are dealt to blocks: no more blocks than have a row (device/arena.cuh).
struct Grid {
  int per_block;
  unsigned blocks;

  explicit Grid(int rows)
      : per_block(divide_up(rows, device::kMaxBlocks)), blocks(divide_up(rows, per_block)) {}
};

void check_rows_of(const char* op, const char* argument, const Tensor& rows, const Tensor& x) {
  check_shape(op, argument, rows, {x.shape[0], x.shape[1]});
  check_dtype(op, argument, rows, x.dtype);
}

void check_vector(const char* op, const char* argument, const Tensor& vector, const Tensor& x) {
  check_shape(op, argument, vector, {x.shape[1]});
  check_dtype(op, argument, vector, x.dtype);
}

void check_memory(const char* op, const char* argument, const Tensor& tensor) {
  check_on_gpu(op, argument, tensor);
  check_contiguous(op, argument, tensor);
  check_aligned(op, argument, tensor);
}

// What a sum with a norm is given, after the checks.
struct Call {
  const Tensor &out, &x, &residual, &weight;
  const std::optional<Tensor>& bias;
  double eps;

  void check(const char* op) const {
    check_float(op, "x", x);
    check_shape(op, "x", x, {-1, -1});
    check_that(op, "x", x.shape[1] <= kMaxRowSize, "has rows of more than 16384 elements");
    check_that(op, "x", row_bytes() % sizeof(uint4) == 0,
               "has rows that are no multiple of 16 bytes");
    check_rows_of(op, "out", out, x);
    check_rows_of(op, "residual", residual, x);
    check_vector(op, "weight", weight, x);
    if (bias) check_vector(op, "bias", *bias, x);
    for (const auto& [argument, tensor] :
         {std::pair("out", &out), {"x", &x}, {"residual", &residual}, {"weight", &weight}}) {
      check_memory(op, argument, *tensor);
    }
    if (bias) check_memory(op, "bias", *bias);
  }

  int64_t row_bytes() const { return x.shape[1] * (x.dtype == DType::kFloat32 ? 4 : 2); }
  bool is_empty() const { return x.shape[0] == 0 || x.shape[1] == 0; }

  // Calls body(arguments, packs, is_centred, ranks, threads), the middle ones as constants.
  template <typename Body>
  void dispatch(int size, Body body) const {
    ft::cuda::dispatch(x, [&](auto type) {
      using T = decltype(type);
      const auto rows = [&](const Tensor& matrix) {
        return device::Rows<T>{matrix.as<T>(), matrix.shape[1]};
      };
      const NormArguments<T> arguments{rows(out),
                                       rows(x),
                                       rows(residual),
                                       weight.as<T>(),
                                       bias ? bias->as<T>() : nullptr,
                                       int(x.shape[0]),
                                       int(x.shape[1]),
                                       float(eps),
                                       true};
      dispatch_row<Pack<T>::kSize>(x.shape[1], [&](auto packs, unsigned threads) {
        dispatch_ranks(size, [&](auto ranks) {
          bias ? body(arguments, packs, std::true_type{}, ranks, threads)
               : body(arguments, packs, std::false_type{}, ranks, threads);
        });
      });
    });
  }
};

}  // namespace

void all_reduce_norm_one_shot(const Tensor& out, const Tensor& x, const Tensor& residual,
                              const Tensor& weight, const std::optional<Tensor>& bias, double eps,
                              const PeerArena& arena, int64_t stream) {
  const char* const op = "all_reduce_norm_one_shot";
  const Call call{out, x, residual, weight, bias, eps};
  call.check(op);
  if (call.is_empty()) return;
  const Grid grid(static_cast<int>(x.shape[0]));
  check_that(op, "x", grid.per_block * call.row_bytes() <= 2 * arena.block_bytes(),
             "has more rows, or longer ones, than the arena's slots hold");
  call.dispatch(arena.view().size, [&](const auto& arguments, auto packs, auto is_centred,
                                       auto ranks, unsigned threads) {
    using T = std::remove_pointer_t<decltype(arguments.x.data)>;
    launch(op, one_shot_norm_kernel<T, packs(), is_centred(), ranks()>, grid.blocks, threads, 0,
           stream, arena.view(), arguments, grid.per_block);
  });
}

void all_reduce_norm_two_shot(const Tensor& out, const Tensor& x, const Tensor& residual,
                              const Tensor& weight, const std::optional<Tensor>& bias, double eps,
                              const PeerArena& arena, int64_t stream) {
  const char* const op = "all_reduce_norm_two_shot";
  const Call call{out, x, residual, weight, bias, eps};
  call.check(op);
  if (call.is_empty()) return;
  const int share = divide_up(x.shape[0], arena.view().size);
  const Grid grid(share);
  check_that(op, "x", grid.per_block * call.row_bytes() <= arena.block_bytes(),
             "has more rows, or longer ones, than the arena's slots hold");
  call.dispatch(arena.view().size, [&](const auto& arguments, auto packs, auto is_centred,
                                       auto ranks, unsigned threads) {
    using T = std::remove_pointer_t<decltype(arguments.x.data)>;
    launch(op, two_shot_norm_kernel<T, packs(), is_centred(), ranks()>, grid.blocks, threads, 0,
           stream, arena.view(), arguments, share, grid.per_block);
  });
}

}  // namespace ft::cuda
