# SPDX-License-Identifier: BSD-3-Clause
"""The layers of a decoder as one kernel, for steps of few sequences of one token each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from .attention import AttentionShape, CrossMetadata, StepMetadata
from .norm import NormLayer


@dataclass(frozen=True, slots=True)
class Product:
    """A product of what the step before left, or of the norm of the residual stream with that added."""

    weight: Tensor
    """[N, K]"""
    bias: Tensor | None
    norm: NormLayer | None = None
    activation: str = ""
    """A kind of ops.activation; empty: none."""
    is_gated: bool = False
    """act(first half of the outputs) * second half"""

    def add_to(self, kernel: ops.DecoderStackKernel) -> None:
        norm = _norm_arguments(self.norm)
        kernel.add_linear(self.weight, self.bias, *norm, self.activation, self.is_gated)


@dataclass(frozen=True, slots=True)
class Attending:
    """Attention of what the product before left: queries, and without an encoder keys and values too."""

    layer: int
    """Whose cache."""
    is_cross: bool = False
    relative_bias: Tensor | None = None
    rope_table: Tensor | None = None
    """The same of all layers."""

    def add_to(self, kernel: ops.DecoderStackKernel) -> None:
        kernel.add_attention(self.layer, self.is_cross, self.relative_bias, self.rope_table)


@dataclass(frozen=True, slots=True)
class StackPlan:
    """What the layers compute, one step behind the other."""

    steps: tuple[Product | Attending, ...]
    shape: AttentionShape
    alibi_slopes: Tensor | None
    """Of every attention."""
    hidden_size: int


class DecoderStack:
    """The steps of a plan as one kernel: what the layers one by one compute, to the bit.

    Args:
        kernel: which fits the plan, and has its steps.
    """

    def __init__(self, plan: StackPlan, kernel: ops.DecoderStackKernel, device: torch.device) -> None:
        self._plan = plan  # keeps the tensors that the kernel reads
        self._kernel = kernel
        self._scratch = torch.empty(kernel.scratch_bytes, dtype=torch.uint8, device=device)
        kernel.place(self._scratch)
        self.max_tokens = kernel.max_tokens

    def takes(self, hidden: Tensor, metadata: StepMetadata, layer_caches: Sequence[Tensor]) -> bool:
        """Whether it is a step of few tokens, each of a sequence of its own, none of which has a task, over a
        cache in blocks that the kernel reads."""
        if layer_caches[0].shape[-2] % ops.STACK_BLOCK_MULTIPLE:
            return False
        count = hidden.shape[0]
        is_single = metadata.max_seqlen_q == 1 and metadata.seq_lens.shape[0] == count
        return is_single and count <= self.max_tokens and metadata.ia3_rows is None

    def __call__(
        self, hidden: Tensor, metadata: StepMetadata, layer_caches: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """[T, H], overwritten -> what is left to add, and to what: [T, H] each.

        Args:
            layer_caches: each layer's, equally far apart in one tensor.
        """
        shape, out = self._plan.shape, torch.empty_like(hidden)
        self._kernel.run(
            out,
            hidden,
            layer_caches[0][0],
            layer_caches[0][1],
            _stride(layer_caches),
            metadata.positions,
            metadata.block_tables,
            metadata.seq_lens,
            metadata.cu_seqlens_q,
            metadata.work,
            *_cross_arguments(metadata.cross),
            metadata.workspace,
            shape.scale,
            shape.window,
            self._plan.alibi_slopes,
            torch.cuda.current_stream().cuda_stream,
        )
        return out, hidden


def _norm_arguments(norm: NormLayer | None) -> tuple[Tensor | None, Tensor | None, float]:
    return (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)


def _stride(layer_caches: Sequence[Tensor]) -> int:
    """Elements from one layer's to the next one's; 0: there is none."""
    if len(layer_caches) == 1:
        return 0
    return int(layer_caches[1].storage_offset() - layer_caches[0].storage_offset())


def _cross_arguments(
    cross: CrossMetadata | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    if cross is None:
        return (None, None, None, None)
    return cross.block_tables, cross.seq_lens, cross.cu_seqlens_q, cross.work


def decoder_stack(plan: StackPlan, device: torch.device) -> DecoderStack | None:
    """The plan as a kernel; None where `device` has none, or none for these sizes."""
    make = ops.decoder_stack_kernel(device.type)
    if make is None:
        return None
    shape = plan.shape
    kernel = make(shape.num_heads, shape.num_kv_heads, shape.head_dim, plan.hidden_size)
    for step in plan.steps:
        step.add_to(kernel)
    return DecoderStack(plan, kernel, device) if kernel.fits() else None
