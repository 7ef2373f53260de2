# SPDX-License-Identifier: BSD-3-Clause
"""The kernel of many layers at once. No body defines it: the layers one by one do, to the bit."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from .registry import any_disabled, find_kernel

STACK_BLOCK_MULTIPLE = 16
"""Blocks of the cache hold a multiple of so many keys."""


class DecoderStackKernel(Protocol):
    """Takes the steps of the layers in their order, then `place`, then runs them as often as wanted.

    It reads tensors where they lie: whoever gives them keeps them. Arguments: (number of query heads, of
    key-value heads, size of a head, hidden size).
    """

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
        """A product with `weight` [N, K] of what the step before left.

        Args:
            norm_weight: [H]; then residual += that, and the product is of the norm of the sum: a layer norm
                with `norm_bias`, else a root mean square one.
            activation: of the product, as in ops.activation; empty: none.
            is_gated: act(first half of the outputs) * second half, as in ops.gated_activation.
        """
        ...

    def add_attention(
        self, layer: int, is_cross: bool, relative_bias: Tensor | None, cos_sin: Tensor | None
    ) -> None:
        """Attention of the product before: [q | k | v], of which keys and values go into the cache, or q
        alone, to the encoder.

        Args:
            layer: whose cache. relative_bias: as in ops.paged_attention.
            cos_sin: [P, D] as in ops.rope, of pairs (i, i + D/2); one for all layers.
        """
        ...

    def fits(self) -> bool:
        """Whether the current device has a kernel for these steps; asked when all are there."""
        ...

    @property
    def max_tokens(self) -> int:
        """Of a run, where it fits."""
        ...

    @property
    def scratch_bytes(self) -> int: ...

    def place(self, scratch: Tensor) -> None:
        """Fills `scratch` [scratch_bytes] uint8, which every run reads and writes."""
        ...

    def run(
        self,
        out: Tensor,
        residual: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        layer_stride: int,
        positions: Tensor | None,
        block_tables: Tensor,
        seq_lens: Tensor,
        cu_seqlens_q: Tensor,
        work: Tensor,
        cross_block_tables: Tensor | None,
        cross_seq_lens: Tensor | None,
        cross_cu_seqlens_q: Tensor | None,
        cross_work: Tensor | None,
        workspace: Tensor,
        scale: float,
        window: int,
        alibi_slopes: Tensor | None,
        stream: int,
    ) -> None:
        """T sequences of one token each: residual [T, H], overwritten -> what is left to add to it in `out`.

        All else is as in ops.paged_attention, without a soft cap. A token's key and value go to its
        sequence's last place, those of a sequence without keys nowhere.

        Args:
            k_cache, v_cache: of the first layer. layer_stride: elements from one layer's to the next one's.
            positions: [T], of tokens that are turned.
        """
        ...


def decoder_stack_kernel(device: str) -> Callable[[int, int, int, int], DecoderStackKernel] | None:
    """What makes one; None: this build has none for `device`, or a kernel whose place it would take was
    disabled."""
    return None if any_disabled() else find_kernel(device, "DecoderStack")  # type: ignore[return-value]
