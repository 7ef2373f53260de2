// SPDX-License-Identifier: BSD-3-Clause
// grouped_linear and grouped_gated_linear: rows that lie side by side by expert, times their
// expert's weights, by mma.sync: 16 weight rows are the A operand, 8 rows of x the B operand.
//
// A block has 64 weight rows of one expert, 16 for each warp, and all rows of x that go to it, up
// to 64 at a time; where there are none, it ends. Weights and x come through a ring in shared
// memory. How many rows an expert has only the device knows: the grid has all experts.
//
// A sum's order depends on the columns alone, so that a row's result does not depend on its
// neighbours.
#include "cuda/activation.cuh"
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "cuda/sampling.h"
#include "device/copy_async.cuh"
#include "device/pdl.cuh"
#include "device/tensor_core.cuh"

namespace ft::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kWeightRows = 16 * kWarps;  // of a block
constexpr int kColumns = 64;              // of a stage
constexpr int kPieces = kColumns / 8;     // of 16 bytes, in a row of a stage
constexpr int kStages = 6;

template <typename T>
struct Problem {
  T* out;
  const T* x;
  const T* weight;         // [experts, weight_rows, columns]
  const int32_t* rows;     // of x, by place; null: the place itself
  const int32_t* offsets;  // of an expert's first place
  int64_t x_stride;
  int weight_rows, out_columns, columns;
  Activation gate;
};

// A row of the stage lies in 16-byte pieces whose places differ from row to row, so that eight rows
// are read without conflicts.
template <typename T>
__device__ T* piece_of(T* stage, int row, int piece) {
  return stage + row * kColumns + (piece ^ (row & 7)) * 8;
}

// In a gated product a tile of 16 has 8 rows of the first half and the 8 that belong to them.
template <bool kGated>
__device__ int weight_row(int first, int row, int out_columns) {
  if constexpr (!kGated) return first + row;
  const int column = first + row / 16 * 8 + row % 8;
  return row % 16 < 8 ? column : out_columns + column;
}

template <bool kGated>
__device__ int out_column(int first, int row) {
  return kGated ? first + row / 16 * 8 + row % 8 : first + row;
}

template <typename T, int kTokenTiles, bool kGated>
struct Tile {
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kStageElements = (kWeightRows + kTokens) * kColumns;
  static constexpr int kSharedBytes = kStages * kStageElements * static_cast<int>(sizeof(T));
  static constexpr int kOutColumns = kGated ? kWeightRows / 2 : kWeightRows;

  const Problem<T>& problem;
  T* shared;
  const T* weight;  // of the expert
  int first_column, first_place, num_tokens;

  // Starts the copies of the stage's columns; a group even where there is nothing left to copy.
  __device__ void fetch(int step) const {
    T* const stage = shared + step % kStages * kStageElements;
    const int column = step * kColumns;
    if (column < problem.columns) {
      for (int i = threadIdx.x; i < kWeightRows * kPieces; i += kThreads) {
        const int row = i / kPieces, piece = i % kPieces, at = column + 8 * piece;
        const bool valid =
            at < problem.columns && out_column<kGated>(first_column, row) < problem.out_columns;
        const int64_t from = weight_row<kGated>(first_column, row, problem.out_columns);
        device::copy_async(piece_of(stage, row, piece),
                           weight + (valid ? from * problem.columns + at : 0), valid);
      }
      T* const tokens = stage + kWeightRows * kColumns;
      for (int i = threadIdx.x; i < kTokens * kPieces; i += kThreads) {
        const int token = i / kPieces, piece = i % kPieces, at = column + 8 * piece;
        if (token >= (num_tokens + 7) / 8 * 8) break;
        const bool valid = at < problem.columns && token < num_tokens;
        const int place = first_place + token;
        const int64_t row = !valid ? 0 : problem.rows == nullptr ? place : problem.rows[place];
        device::copy_async(piece_of(tokens, token, piece),
                           problem.x + row * problem.x_stride + (valid ? at : 0), valid);
      }
    }
    device::commit_copies();
  }

  __device__ void multiply(float (&sums)[kTokenTiles][4], int step) const {
    T* const stage = shared + step % kStages * kStageElements;
    T* const tokens = stage + kWeightRows * kColumns;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int piece = 0; piece < kPieces; piece += 4) {
      uint32_t a[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        device::load_matrices(a[half],
                              piece_of(stage, 16 * warp + lane % 16, piece + 2 * half + lane / 16));
      }
#pragma unroll
      for (int tile = 0; tile < kTokenTiles; ++tile) {
        if (8 * tile >= num_tokens) break;
        uint32_t b[4];
        device::load_matrices(b, piece_of(tokens, 8 * tile + lane % 8, piece + lane / 8));
        device::product<T>(sums[tile], a[0], b[0], b[1]);
        device::product<T>(sums[tile], a[1], b[2], b[3]);
      }
    }
  }

  __device__ void store(int token, int row, float value) const {
    const int column = out_column<kGated>(first_column, row);
    if (token >= num_tokens || column >= problem.out_columns) return;
    problem.out[static_cast<int64_t>(first_place + token) * problem.out_columns + column] =
        static_cast<T>(value);
  }

  __device__ void compute() const {
    const int steps = (problem.columns + kColumns - 1) / kColumns;
    float sums[kTokenTiles][4] = {};
    for (int step = 0; step < kStages - 1; ++step) fetch(step);
    for (int step = 0; step < steps; ++step) {
      device::wait_for_copies<kStages - 2>();
      __syncthreads();  // all have the stage, and have left the one that is filled next
      fetch(step + kStages - 1);
      multiply(sums, step);
    }
    device::wait_for_copies<0>();
    __syncthreads();
    const int row = 16 * (threadIdx.x / 32) + threadIdx.x % 32 / 4;
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const float (&sum)[4] = sums[tile];
      const int token = 8 * tile + threadIdx.x % 4 * 2;
      if constexpr (kGated) {
        store(token, row, activate(problem.gate, sum[0]) * sum[2]);
        store(token + 1, row, activate(problem.gate, sum[1]) * sum[3]);
      } else {
        store(token, row, sum[0]);
        store(token + 1, row, sum[1]);
        store(token, row + 8, sum[2]);
        store(token + 1, row + 8, sum[3]);
      }
    }
  }
};

// Grid: tiles of weight rows, experts.
template <typename T, int kTokenTiles, bool kGated>
__global__ void __launch_bounds__(kThreads)
    grouped_linear_kernel(const __grid_constant__ Problem<T> problem) {
  using Mine = Tile<T, kTokenTiles, kGated>;
  extern __shared__ __align__(128) char shared[];
  device::wait_for_predecessor();
  const int expert = blockIdx.y, end = problem.offsets[expert + 1];
  const T* const weight =
      problem.weight + static_cast<int64_t>(expert) * problem.weight_rows * problem.columns;
  for (int first = problem.offsets[expert]; first < end; first += Mine::kTokens) {
    Mine{problem, reinterpret_cast<T*>(shared),
         weight,  static_cast<int>(blockIdx.x) * Mine::kOutColumns,
         first,   min(end - first, Mine::kTokens)}
        .compute();
  }
}

template <typename T, int kTokenTiles, bool kGated>
void launch_tiles(const char* op, const Problem<T>& problem, int64_t num_experts, int64_t stream) {
  using Mine = Tile<T, kTokenTiles, kGated>;
  constexpr auto kernel = grouped_linear_kernel<T, kTokenTiles, kGated>;
  static const bool allowed = (allow_shared(op, kernel, Mine::kSharedBytes), true);
  static_cast<void>(allowed);
  const dim3 grid(divide_up(problem.out_columns, Mine::kOutColumns),
                  static_cast<unsigned>(num_experts));
  launch(op, kernel, grid, kThreads, Mine::kSharedBytes, stream, problem);
}

// most_rows: no expert has more.
template <typename T, bool kGated>
void launch_problem(const char* op, const Problem<T>& problem, int64_t num_experts,
                    int64_t most_rows, int64_t stream) {
  if (most_rows <= 8) return launch_tiles<T, 1, kGated>(op, problem, num_experts, stream);
  if (most_rows <= 16) return launch_tiles<T, 2, kGated>(op, problem, num_experts, stream);
  if (most_rows <= 32) return launch_tiles<T, 4, kGated>(op, problem, num_experts, stream);
  launch_tiles<T, 8, kGated>(op, problem, num_experts, stream);
}

template <bool kGated>
void run(const char* op, const Tensor& out, const Tensor& x, const Tensor& weight,
         const Tensor* rows, const Tensor& offsets, Activation gate, int64_t stream) {
  check_shape(op, "x", x, {-1, -1});
  check_that(op, "x", has_half_type(x), "is neither bfloat16 nor float16");
  check_on_gpu(op, "x", x);
  check_rows(op, "x", x);
  check_aligned(op, "x", x);
  check_that(op, "x", x.shape[1] % 8 == 0 && x.strides[0] % 8 == 0,
             "has rows that are no multiples of 16 bytes");
  check_shape(op, "weight", weight, {-1, -1, x.shape[1]});
  check_dtype(op, "weight", weight, x.dtype);
  check_on_gpu(op, "weight", weight);
  check_contiguous(op, "weight", weight);
  check_aligned(op, "weight", weight);
  check_that(op, "weight", !kGated || weight.shape[1] % 2 == 0, "has an odd number of rows");
  check_vector(op, "offsets", offsets, weight.shape[0] + 1, DType::kInt32);
  if (rows != nullptr) {
    check_shape(op, "rows", *rows, {-1});
    check_vector(op, "rows", *rows, rows->shape[0], DType::kInt32);
  }
  const int64_t num_places = rows == nullptr ? x.shape[0] : rows->shape[0];
  const int64_t out_columns = weight.shape[1] / (kGated ? 2 : 1);
  check_shape(op, "out", out, {num_places, out_columns});
  check_dtype(op, "out", out, x.dtype);
  check_on_gpu(op, "out", out);
  check_contiguous(op, "out", out);
  if (num_places == 0 || out_columns == 0) return;
  dispatch_half(x, [&](auto type) {
    using T = decltype(type);
    const Problem<T> problem{out.as<T>(),
                             x.as<T>(),
                             weight.as<T>(),
                             rows == nullptr ? nullptr : rows->as<int32_t>(),
                             offsets.as<int32_t>(),
                             x.strides[0],
                             static_cast<int>(weight.shape[1]),
                             static_cast<int>(out_columns),
                             static_cast<int>(x.shape[1]),
                             gate};
    launch_problem<T, kGated>(op, problem, weight.shape[0], x.shape[0], stream);
  });
}

}  // namespace

void grouped_linear(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& offsets,
                    int64_t stream) {
  run<false>("grouped_linear", out, x, weight, nullptr, offsets, Activation{}, stream);
}

void grouped_gated_linear(const Tensor& out, const Tensor& x, const Tensor& weight,
                          const Tensor& rows, const Tensor& offsets, const std::string& kind,
                          int64_t stream) {
  constexpr const char* kOp = "grouped_gated_linear";
  run<true>(kOp, out, x, weight, &rows, offsets, activation_of(kOp, kind), stream);
}

}  // namespace ft::cuda
