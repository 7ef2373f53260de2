// SPDX-License-Identifier: BSD-3-Clause
// What goes into a product of decoder_stack: values of the step before, or the norm of the residual
// that they are added to, which every block computes for itself. Bit for bit what the kernels of
// norm.cu compute.
#pragma once

#include "cuda/decoder_stack/shared.cuh"
#include "device/arrival.cuh"
#include "device/row_norm.cuh"
#include "device/skinny.cuh"

namespace ft::cuda::stack {

#ifdef FT_HOPPER

constexpr int kPackLanes = 8;

// x = the values of the step before, as they are; a thread has so many packs on their way at once.
template <int kAtOnce, typename T, int kHeadDim>
__device__ __forceinline__ void take_packs(const Shared<T, kHeadDim>& shared, const Step& step,
                                           const T* in, int count) {
  const auto* const from = reinterpret_cast<const uint4*>(in);
  const int row_packs = step.in_columns / kPackLanes;
#pragma unroll 1
  for (int first = threadIdx.x; first < count; first += kConsumers * kAtOnce) {
    uint4 packs[kAtOnce];
    device::Patience patience;
    while (true) {
      uint32_t absences = 0;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = first + i * kConsumers;
        packs[i] = at < count ? device::load_relaxed(from + at) : uint4{};
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) absences |= device::absences(packs[i]);
      if ((absences & device::kAbsences) == 0) break;
      patience.spend();
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = first + i * kConsumers;
      if (at >= count) break;
      const int token = __umulhi(at, step.in_packs_inverse);
      reinterpret_cast<uint4*>(shared.x(step, token))[at - token * row_packs] = packs[i];
    }
  }
}
template <typename T, int kHeadDim>
__device__ __forceinline__ void take_values(const Shared<T, kHeadDim>& shared, const Step& step,
                                            const T* in, int tokens) {
  const int count = tokens * step.in_columns / kPackLanes;
  if (count <= kConsumers) {
    take_packs<1>(shared, step, in, count);
  } else if (count <= 2 * kConsumers) {
    take_packs<2>(shared, step, in, count);
  } else {
    take_packs<8>(shared, step, in, count);
  }
}

// The sum of a row that `row_warps` neighbouring warps hold, for all of its threads, in the order
// of device::block_sum, where lanes of no warp add nothing. One barrier of all consumers.
// `partial`: used by nobody else up to the next barrier behind it.
__device__ __forceinline__ float row_sum(float x, int row_warps, float (&partial)[kWarps]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = device::warp_sum(x);
  if (lane == 0) partial[warp] = x;
  const int lanes = 1 << (32 - __clz(row_warps - 1));  // a power of two, for every warp of the row
  const int part = lane & (lanes - 1), first = warp - warp % row_warps;
  device::named_barrier(1, kConsumers);
  x = part < row_warps ? partial[min(first + part, kWarps - 1)] : 0.0f;
#pragma unroll 1
  for (int width = lanes / 2; width > 0; width /= 2) x += __shfl_xor_sync(0xffffffffu, x, width);
  return x + 0.0f;
}

// x / n, rounded as a division is, where `inverse` is 1 / n: a division would be a call, and what
// lives through one lies in memory. (Markstein, IBM Journal of Research and Development 34, 1990)
__device__ __forceinline__ float divided(float x, float n, float inverse) {
  const float quotient = x * inverse, rest = fmaf(-n, quotient, x);
  return rest == rest ? fmaf(rest, inverse, quotient) : quotient;  // x may be infinite
}

// residual += the values of the step before, where there is one; x = the norm of that.
template <bool kCentred, typename T, int kHeadDim>
__device__ void take_norm(const Shared<T, kHeadDim>& shared, const Step& step, const T* in,
                          int tokens, int hidden, float inverse_hidden) {
  using P = device::Pack<T, kPackLanes>;
  const int row_warps = (hidden / kPackLanes + 31) / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int at_once = kWarps / row_warps, of_row = warp / row_warps;
  const int at = (warp % row_warps * 32 + lane) * kPackLanes;
  // Loaded in any case, too: a register that is not always written lives on from step to step.
  const int inside = min(at, hidden - kPackLanes);
  const P weight = device::load_pack<kPackLanes>(static_cast<const T*>(step.norm_weight) + inside);
  P bias = weight;
  if (kCentred) {
    bias = device::load_pack<kPackLanes>(static_cast<const T*>(step.norm_bias) + inside);
  }
  int turn = 0;
#pragma unroll 1
  for (int base = 0; base < tokens; base += at_once) {
    const int token = base + of_row;
    const bool is_mine = of_row < at_once && token < tokens && at < hidden;
    P x = weight;
    if (is_mine) {
      T* const residual = shared.residual() + token * hidden + at;
      x = device::load_pack<kPackLanes>(residual);
      if (step.in != Step::kNone) {
        const T* const from = in + token * step.in_columns + at;
        const uint4 pack = device::arrived(reinterpret_cast<const uint4*>(from));
        x = device::sum_of(x, *reinterpret_cast<const P*>(&pack));
        device::store_pack(residual, x);
      }
    }
    const auto mean_of = [&](auto function) {
      float total = 0.0f;
      if (is_mine) {
#pragma unroll
        for (int i = 0; i < kPackLanes; ++i) total += function(device::to_float(x.lanes[i]));
      }
      turn ^= 1;
      const float sum = row_sum(total, row_warps, shared.partials()[turn]);
      return divided(sum, static_cast<float>(hidden), inverse_hidden);
    };
    float mean = 0.0f;
    if (kCentred) mean = mean_of([](float value) { return value; });
    const float variance = mean_of([&](float value) { return (value - mean) * (value - mean); });
    const float scale = rsqrtf(variance + step.eps);
    if (!is_mine) continue;
#pragma unroll
    for (int i = 0; i < kPackLanes; ++i) {
      float value =
          (device::to_float(x.lanes[i]) - mean) * scale * device::to_float(weight.lanes[i]);
      if (kCentred) value += device::to_float(bias.lanes[i]);
      x.lanes[i] = device::from_float<T>(value);
    }
    device::store_pack(shared.x(step, token) + at, x);
  }
}

#endif  // FT_HOPPER

}  // namespace ft::cuda::stack
