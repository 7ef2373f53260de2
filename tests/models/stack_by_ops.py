# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel of a stack of layers computes, op by op: for machines without one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastertransformer import ops
from fastertransformer.quant.dense import DenseWeight


@dataclass
class Run:
    """The arguments of one."""

    residual: Tensor
    caches: tuple[Tensor, Tensor]
    layer_stride: int
    positions: Tensor
    sequences: tuple[Tensor, ...]
    """Block tables, lengths, bounds of the queries, work."""
    cross_sequences: tuple[Tensor, ...]
    workspace: Tensor
    scale: float
    window: int
    alibi_slopes: Tensor | None

    def caches_of(self, layer: int) -> list[Tensor]:
        return [
            cache.as_strided(cache.shape, cache.stride(), cache.storage_offset() + layer * self.layer_stride)
            for cache in self.caches
        ]


Step = Callable[[Run, Tensor | None], Tensor]


class StackByOps:
    """Has the kernel's interface, and runs on the CPU."""

    max_tokens = 8
    scratch_bytes = 24

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, hidden_size: int) -> None:
        self._split = [num_heads, num_kv_heads, num_kv_heads]
        self._head_dim = head_dim
        self._hidden_size = hidden_size
        self._steps: list[Step] = []
        self.num_runs = 0

    def fits(self) -> bool:
        return True

    def place(self, scratch: Tensor) -> None:
        assert (scratch.shape, scratch.dtype) == ((self.scratch_bytes,), torch.uint8)

    def add_linear(
        self,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        eps: float,
        activation: str,
        is_gated: bool,
    ) -> None:
        held = DenseWeight(weight)

        def step(run: Run, x: Tensor | None) -> Tensor:
            if norm_weight is not None:
                x = _normed(x, run.residual, norm_weight, norm_bias, eps)
            assert x is not None
            if is_gated:
                return held.gated_matmul(x, bias, activation)
            return held.activated_matmul(x, bias, activation) if activation else held.matmul(x, bias)

        self._steps.append(step)

    def add_attention(
        self, layer: int, is_cross: bool, relative_bias: Tensor | None, cos_sin: Tensor | None
    ) -> None:
        assert not is_cross or relative_bias is cos_sin is None

        def step(run: Run, x: Tensor | None) -> Tensor:
            assert x is not None
            heads = x.view(len(x), -1, self._head_dim)
            caches = run.caches_of(layer)
            if is_cross:
                return _attended(run, heads, caches, run.cross_sequences, run.scale, 0, 0.0, None, None)
            q, k, v = torch.split(heads, self._split, 1)
            places = _last_places(*run.sequences[:2], caches[0].shape[2])
            ops.add_to_cache(q, k, v, run.positions, cos_sin, False, *caches, places)
            scores = run.scale, run.window, 0.0, run.alibi_slopes
            return _attended(run, q, caches, run.sequences, *scores, relative_bias)

        self._steps.append(step)

    def run(
        self,
        out: Tensor,
        residual: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        layer_stride: int,
        positions: Tensor,
        *arguments: object,
    ) -> None:
        assert out.shape == residual.shape == (len(residual), self._hidden_size)
        sequences, cross_sequences, (*others, _) = arguments[:4], arguments[4:8], arguments[8:]
        caches = k_cache, v_cache
        run = Run(residual, caches, layer_stride, positions, sequences, cross_sequences, *others)
        x = None
        for step in self._steps:
            x = step(run, x)
        out.copy_(x)
        self.num_runs += 1


def _normed(x: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    parameters = (weight, eps) if bias is None else (weight, bias, eps)
    if x is None:
        return (ops.rms_norm if bias is None else ops.layer_norm)(residual, *parameters)
    return (ops.add_rms_norm if bias is None else ops.add_layer_norm)(x, residual, *parameters, True)


def _attended(
    run: Run, q: Tensor, caches: list[Tensor], sequences: tuple[Tensor, ...], *scores: object
) -> Tensor:
    longest = int(sequences[1].max())
    return ops.paged_attention(q, *caches, *sequences, run.workspace, 1, longest, *scores).view(len(q), -1)


def _last_places(block_tables: Tensor, seq_lens: Tensor, block_size: int) -> Tensor:
    """[T] where the keys of the last tokens go; -1 for a sequence without keys."""
    last = (seq_lens.long() - 1).clamp(min=0)
    blocks = block_tables.gather(1, (last // block_size)[:, None])[:, 0]
    return torch.where(seq_lens > 0, blocks * block_size + last % block_size, -1).int()
