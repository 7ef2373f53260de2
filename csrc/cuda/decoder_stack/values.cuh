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
// of device::block_sum, where lanes of no warp add nothing; a warp may do the work of kPacks of
// them. One barrier of all consumers. `partial`: used by nobody else up to the next barrier behind
// it.
template <int kPacks>
__device__ __forceinline__ float row_sum(const float (&parts)[kPacks], int row_warps,
                                         float (&partial)[kMaxRowWarps]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const float x = device::warp_sum(parts[i]);
    if (lane == 0) partial[warp + i * kWarps] = x;
  }
  const int lanes = 1 << (32 - __clz(row_warps - 1));  // a power of two, for every warp of the row
  const int part = lane & (lanes - 1), first = kPacks > 1 ? 0 : warp - warp % row_warps;
  device::named_barrier(1, kConsumers);
  float x = part < row_warps ? partial[min(first + part, kMaxRowWarps - 1)] : 0.0f;
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

// residual += the values of the step before, where there is one; x = the norm of that. Threads
// hold kPacks packs of a row.
template <bool kCentred, int kPacks, typename T, int kHeadDim>
__device__ void take_norm(const Shared<T, kHeadDim>& shared, const Step& step, const T* in,
                          int tokens, int hidden, float inverse_hidden) {
  using P = device::Pack<T, kPackLanes>;
  const int row_warps = (hidden / kPackLanes + 31) / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int at_once = kPacks > 1 ? 1 : kWarps / row_warps;
  const int of_row = kPacks > 1 ? 0 : warp / row_warps;
  const int first = ((kPacks > 1 ? warp : warp % row_warps) * 32 + lane) * kPackLanes;
  const auto at = [&](int i) { return first + i * kConsumers * kPackLanes; };
  P weight[kPacks], bias[kPacks], x[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    // Loaded in any case, too: a register that is not always written lives on from step to step.
    const int inside = min(at(i), hidden - kPackLanes);
    weight[i] = device::load_pack<kPackLanes>(static_cast<const T*>(step.norm_weight) + inside);
    bias[i] = weight[i];
    if (kCentred) {
      bias[i] = device::load_pack<kPackLanes>(static_cast<const T*>(step.norm_bias) + inside);
    }
  }
  int turn = 0;
#pragma unroll 1
  for (int base = 0; base < tokens; base += at_once) {
    const int token = base + of_row;
    const auto is_mine = [&](int i) {
      return of_row < at_once && token < tokens && at(i) < hidden;
    };
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      x[i] = weight[i];
      if (!is_mine(i)) continue;
      T* const residual = shared.residual() + token * hidden + at(i);
      x[i] = device::load_pack<kPackLanes>(residual);
      if (step.in != Step::kNone) {
        const T* const from = in + token * step.in_columns + at(i);
        const uint4 pack = device::arrived(reinterpret_cast<const uint4*>(from));
        x[i] = device::sum_of(x[i], *reinterpret_cast<const P*>(&pack));
        device::store_pack(residual, x[i]);
      }
    }
    const auto mean_of = [&](auto function) {
      float totals[kPacks] = {};
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        if (!is_mine(i)) continue;
#pragma unroll
        for (int j = 0; j < kPackLanes; ++j) {
          totals[i] += function(device::to_float(x[i].lanes[j]));
        }
      }
      turn ^= 1;
      const float sum = row_sum(totals, row_warps, shared.partials()[turn]);
      return divided(sum, static_cast<float>(hidden), inverse_hidden);
    };
    float mean = 0.0f;
    if (kCentred) mean = mean_of([](float value) { return value; });
    const float variance = mean_of([&](float value) { return (value - mean) * (value - mean); });
    const float scale = rsqrtf(variance + step.eps);
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (!is_mine(i)) continue;
#pragma unroll
      for (int j = 0; j < kPackLanes; ++j) {
        float value =
            (device::to_float(x[i].lanes[j]) - mean) * scale * device::to_float(weight[i].lanes[j]);
        if (kCentred) value += device::to_float(bias[i].lanes[j]);
        x[i].lanes[j] = device::from_float<T>(value);
      }
      device::store_pack(shared.x(step, token) + at(i), x[i]);
    }
  }
}

#endif  // FT_HOPPER

}  // namespace ft::cuda::stack
