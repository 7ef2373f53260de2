# SPDX-License-Identifier: BSD-3-Clause
"""Rotary tables: the angles of every position, with the scalings that stretch a model's context."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by `factor`. (Chen et al., arXiv 2306.15595)"""

    factor: float

    def apply(self, inv_freq: Tensor, _: int) -> tuple[Tensor, float]:
        return inv_freq / self.factor, 1.0


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Long wavelengths stretched, short ones kept, a ramp between. (Llama 3.1, transformers' `llama3`)"""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def apply(self, inv_freq: Tensor, _: int) -> tuple[Tensor, float]:
        turns = self.original_max_position_embeddings * inv_freq / (2 * math.pi)
        ramp = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = ramp.clamp(0, 1)
        return inv_freq * (kept + (1 - kept) / self.factor), 1.0


@dataclass(frozen=True, slots=True)
class FactorScaling:
    """A divisor for every frequency, as GGUF files hold them (`rope_freqs.weight`)."""

    factors: tuple[float, ...]

    def apply(self, inv_freq: Tensor, _: int) -> tuple[Tensor, float]:
        return inv_freq / torch.tensor(self.factors), 1.0


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """NTK-by-parts with an attention temperature. (Peng et al., arXiv 2309.00071)"""

    theta: float
    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Ends of the ramp on whole frequencies."""

    def apply(self, inv_freq: Tensor, _: int) -> tuple[Tensor, float]:
        half = len(inv_freq)
        low, high = (self._dimension(beta, half) for beta in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        span = (high - low) or 0.001  # transformers' guard against a ramp of no length
        interpolated = ((torch.arange(half) - low) / span).clamp(0, 1)
        return inv_freq * (1 - interpolated + interpolated / self.factor), self.attention_factor

    def _dimension(self, rotations: float, half: int) -> float:
        """The frequency index that makes `rotations` turns within the original context."""
        turns = self.original_max_position_embeddings / (rotations * 2 * math.pi)
        return half * math.log(turns) / math.log(self.theta)


@dataclass(frozen=True, slots=True)
class LongScaling:
    """A divisor for every frequency: one list for contexts up to the original one, another for longer ones.

    Every position of a table has the divisors of its last one. (LongRoPE, Ding et al., arXiv 2402.13753)
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_position_embeddings: int
    attention_factor: float

    def apply(self, inv_freq: Tensor, num_positions: int) -> tuple[Tensor, float]:
        is_long = num_positions > self.original_max_position_embeddings
        factors = self.long_factors if is_long else self.short_factors
        return inv_freq / torch.tensor(factors), self.attention_factor


def longrope_attention_factor(factor: float, original_max_position_embeddings: int) -> float:
    """sqrt(1 + ln(factor) / ln(original)). (arXiv 2402.13753, as Phi-3 uses it)"""
    if factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(factor) / math.log(original_max_position_embeddings))


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """0.1 * mscale * ln(factor) + 1. (arXiv 2309.00071, equation 22)"""
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


Scaling = LinearScaling | Llama3Scaling | FactorScaling | YarnScaling | LongScaling


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary positions on the first `rotary_dim` dimensions of every head."""

    theta: float
    rotary_dim: int
    interleaved: bool = False
    scaling: Scaling | None = None


def rope_table(spec: RopeSpec, num_positions: int) -> Tensor:
    """[positions, rotary_dim] float32: cosines in the first half, sines in the second."""
    exponents = torch.arange(0, spec.rotary_dim, 2, dtype=torch.float32) / spec.rotary_dim
    inv_freq, magnitude = 1 / spec.theta**exponents, 1.0
    if spec.scaling is not None:
        inv_freq, magnitude = spec.scaling.apply(inv_freq, num_positions)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), inv_freq)
    return torch.cat((angles.cos(), angles.sin()), -1) * magnitude


def sinusoidal_table(num_positions: int, width: int, offset: int = 0, spread: int = 1) -> Tensor:
    """[positions, width] float32: sines of offset, offset + 1, ... in the first half, cosines in the second.

    (Vaswani et al., arXiv 1706.03762)

    Args:
        spread: frequencies are 10000^(-i / (width / 2 - spread)): 1 as in tensor2tensor, 0 as in the paper.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10_000) / (half - spread)))
    angles = torch.outer(torch.arange(offset, offset + num_positions, dtype=torch.float32), frequencies)
    return torch.cat((angles.sin(), angles.cos()), -1)


def alibi_slopes(num_heads: int, bias_max: float = 8.0) -> tuple[float, ...]:
    """2^(-bias_max * i / n) of heads i = 1 .. n; where n is no power of two, that of the next smaller one,
    then every second slope of the next larger one. (Press et al., arXiv 2108.12409)"""
    whole = 1 << (num_heads.bit_length() - 1)
    first = [2 ** (-bias_max * (head + 1) / whole) for head in range(whole)]
    between = [2 ** (-bias_max * (2 * head + 1) / (2 * whole)) for head in range(num_heads - whole)]
    return tuple(first + between)


@dataclass(frozen=True, slots=True)
class RelativeBias:
    """A learned bias for every bucket of distances, each wider than the one before. (arXiv 1910.10683)"""

    num_buckets: int
    max_distance: int
    """From here on all distances share a bucket."""
    is_shared: bool
    """The first layer's serves all."""


def relative_bias_table(spec: RelativeBias, buckets: Tensor, bidirectional: bool) -> Tensor:
    """[N, columns] float32 for ops.encoder_attention (bidirectional) or ops.paged_attention.

    Args:
        buckets: [num_buckets, N] what a checkpoint stores.
    """
    reach = spec.max_distance
    distances = torch.arange(-reach, reach + 1 if bidirectional else 1)
    rows = _bucket(distances, spec, bidirectional).to(buckets.device)
    return buckets.float()[rows].T.contiguous()


def _bucket(distances: Tensor, spec: RelativeBias, bidirectional: bool) -> Tensor:
    """Of key - query: half of the buckets hold one distance each, the others grow with its logarithm."""
    count = spec.num_buckets // 2 if bidirectional else spec.num_buckets
    exact, size = count // 2, distances.abs()
    growth = (size.float() / exact).log() / math.log(spec.max_distance / exact) * (count - exact)
    large = (exact + growth.clamp(min=0).long()).clamp(max=count - 1)
    future = (distances > 0) * count if bidirectional else 0
    return future + torch.where(size < exact, size, large)
