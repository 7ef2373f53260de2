// SPDX-License-Identifier: BSD-3-Clause
// embedding and add_positions: rows of a table [V, H] by number. One thread moves one pack; a block
// has several short rows.
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/packs.h"
#include "device/pdl.cuh"
#include "device/vec.cuh"

namespace ft::cuda {
namespace {

constexpr int kThreads = 256;

// What a thread has. Grid: rows, packs of a row. Block: packs, rows.
struct Place {
  int64_t row;
  int at;
  bool exists;

  __device__ Place(int num_rows, int size, int lanes)
      : row(static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y),
        at((blockIdx.y * blockDim.x + threadIdx.x) * lanes),
        exists(row < num_rows && at < size) {}
};

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(T* out, int64_t out_stride, const int32_t* ids, const T* weight,
                     int64_t weight_stride, int num_rows, int size) {
  device::wait_for_predecessor();
  const Place place(num_rows, size, kLanes);
  if (!place.exists) return;
  const T* row = weight + ids[place.row] * weight_stride;
  device::store_pack(out + place.row * out_stride + place.at,
                     device::load_pack<kLanes>(row + place.at));
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    add_positions_kernel(T* hidden, int64_t hidden_stride, const T* table, int64_t table_stride,
                         const int32_t* positions, int num_rows, int size) {
  const Place place(num_rows, size, kLanes);
  device::Pack<T, kLanes> position;
  if (place.exists) {
    position = device::load_pack<kLanes>(table + positions[place.row] * table_stride + place.at);
  }
  device::wait_for_predecessor();
  if (!place.exists) return;
  T* at = hidden + place.row * hidden_stride + place.at;
  device::Pack<T, kLanes> value = device::load_pack<kLanes>(at);
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) {
    value.lanes[lane] = device::from_float<T>(device::to_float(value.lanes[lane]) +
                                              device::to_float(position.lanes[lane]));
  }
  device::store_pack(at, value);
}

// rows: [T, H], table: [V, H], numbers: [T] int32.
void check(const char* op, const char* rows_argument, const Tensor& rows,
           const char* table_argument, const Tensor& table, const char* numbers_argument,
           const Tensor& numbers) {
  check_float(op, table_argument, table);
  check_shape(op, table_argument, table, {-1, -1});
  check_rows(op, table_argument, table);
  check_on_gpu(op, table_argument, table);
  check_shape(op, numbers_argument, numbers, {-1});
  check_dtype(op, numbers_argument, numbers, DType::kInt32);
  check_contiguous(op, numbers_argument, numbers);
  check_on_gpu(op, numbers_argument, numbers);
  check_shape(op, rows_argument, rows, {numbers.shape[0], table.shape[1]});
  check_dtype(op, rows_argument, rows, table.dtype);
  check_rows(op, rows_argument, rows);
  check_on_gpu(op, rows_argument, rows);
}

dim3 block_of(const Tensor& rows, int lanes) {
  const unsigned packs = std::min<unsigned>(kThreads, 32 * divide_up(rows.shape[1], 32 * lanes));
  return dim3(packs, kThreads / packs);
}

dim3 grid_of(const Tensor& rows, int lanes, dim3 block) {
  return dim3(divide_up(rows.shape[0], block.y), divide_up(rows.shape[1], block.x * lanes));
}

}  // namespace

void embedding(const Tensor& out, const Tensor& ids, const Tensor& weight, int64_t stream) {
  check("embedding", "out", out, "weight", weight, "ids", ids);
  if (out.shape[0] == 0 || out.shape[1] == 0) return;
  dispatch_packs({&out, &weight}, [&](auto type, auto lanes) {
    using T = decltype(type);
    const dim3 block = block_of(out, lanes);
    launch("embedding", embedding_kernel<T, lanes>, grid_of(out, lanes, block), block, 0, stream,
           out.as<T>(), out.strides[0], ids.as<int32_t>(), weight.as<T>(), weight.strides[0],
           out.shape[0], out.shape[1]);
  });
}

void add_positions(const Tensor& hidden, const Tensor& table, const Tensor& positions,
                   int64_t stream) {
  check("add_positions", "hidden", hidden, "table", table, "positions", positions);
  if (hidden.shape[0] == 0 || hidden.shape[1] == 0) return;
  dispatch_packs({&hidden, &table}, [&](auto type, auto lanes) {
    using T = decltype(type);
    const dim3 block = block_of(hidden, lanes);
    launch("add_positions", add_positions_kernel<T, lanes>, grid_of(hidden, lanes, block), block, 0,
           stream, hidden.as<T>(), hidden.strides[0], table.as<T>(), table.strides[0],
           positions.as<int32_t>(), hidden.shape[0], hidden.shape[1]);
  });
}

}  // namespace ft::cuda
