# SPDX-License-Identifier: BSD-3-Clause
"""Self-attention over the paged cache, and the metadata of a step that all layers share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from .ia3 import Ia3
from .linear import Linear
from .norm import NormLayer


@dataclass(frozen=True, slots=True)
class CrossMetadata:
    """What T tokens of a decoder see of their encoders; to the kernels each is a sequence of one query."""

    block_tables: Tensor
    """[T, W] of the encoder's keys and values"""
    seq_lens: Tensor
    """[T] length of the encoder's input"""
    cu_seqlens_q: Tensor
    """[T + 1]"""
    work: Tensor
    """[2, T + 1]"""
    max_seqlen_k: int


@dataclass(frozen=True, slots=True)
class StepMetadata:
    """T tokens of B sequences; tensors int32 on the device."""

    positions: Tensor
    """[T]"""
    slot_mapping: Tensor
    """[T] block * block_size + offset of each token's key and value"""
    block_tables: Tensor
    """[B, W]"""
    cu_seqlens_q: Tensor
    """[B + 1]"""
    seq_lens: Tensor
    """[B] keys including this step's"""
    work: Tensor
    """[2, B + 1] see ops.attention_work"""
    workspace: Tensor
    """Scratch of the attention kernels, float32"""
    max_seqlen_q: int
    max_seqlen_k: int
    cross: CrossMetadata | None = None
    """Of the decoder of an encoder-decoder"""
    ia3_rows: Tensor | None = None
    """[T] as of Ia3"""
    kept: Tensor | None = None
    """[S] int32 indices into T of the tokens that are wanted behind the attention; None: all are."""


def rows_of(x: Tensor, kept: Tensor | None) -> Tensor:
    """[T, ...] -> the rows `kept` [S, ...]; None: all of them."""
    return x if kept is None else x.index_select(0, kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """This rank's share of the heads, and what the scores go through."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int = 0
    soft_cap: float = 0.0
    qkv_limit: float = 0.0
    """Clips queries, keys and values; 0 does not."""
    interleaved: bool = False
    """Pairs of the rotation are neighbours."""


class Attention:
    """output(attention(rotate(norm(qkv(x)))))

    Args:
        ia3: of keys and values.
    """

    def __init__(
        self,
        shape: AttentionShape,
        qkv: Linear,
        output: Linear,
        rope_table: Tensor | None,
        alibi_slopes: Tensor | None,
        relative_bias: Tensor | None,
        q_norm: NormLayer | None,
        k_norm: NormLayer | None,
        ia3: Ia3 | None,
    ) -> None:
        self.shape = shape
        self.output = output
        self.qkv = qkv
        self.rope_table = rope_table
        self.alibi_slopes = alibi_slopes
        self.relative_bias = relative_bias
        self._q_norm = q_norm
        self._k_norm = k_norm
        self._ia3 = ia3
        kv = shape.num_kv_heads
        self._split = [shape.num_heads, kv, kv]

    @property
    def is_plain(self) -> bool:
        """Whether queries, keys and values are what `qkv` leaves, turned or not."""
        changes = (self._q_norm, self._k_norm, self._ia3)
        return not self.shape.qkv_limit and all(change is None for change in changes)

    @property
    def turns_partly(self) -> bool:
        """Whether it turns other pairs than those of the halves of whole heads."""
        if self.rope_table is None:
            return False
        return self.shape.interleaved or self.rope_table.shape[1] < self.shape.head_dim

    def __call__(self, x: Tensor, metadata: StepMetadata, kv_cache: Tensor) -> Tensor:
        """[T, H] -> this rank's part of the sum [S, H] of the tokens that are kept.

        Args:
            kv_cache: [2, num_blocks, K, block_size, D].
        """
        return self.output(rows_of(self.inner(x, metadata, kv_cache), metadata.kept))

    def write(self, x: Tensor, metadata: StepMetadata, kv_cache: Tensor) -> None:
        """[T, H]: leaves keys and values in the cache, for tokens none of which is kept."""
        self._written(self.qkv(x), metadata, kv_cache)

    def inner(self, x: Tensor, metadata: StepMetadata, kv_cache: Tensor) -> Tensor:
        """[T, H] -> what goes into `output` [T, N * D]"""
        return self.attended(self.qkv(x), metadata, kv_cache)

    def attended(self, qkv: Tensor, metadata: StepMetadata, kv_cache: Tensor) -> Tensor:
        """What `qkv` leaves [T, (N + 2 K) * D] -> what goes into `output` [T, N * D]"""
        q = self._written(qkv, metadata, kv_cache)
        return self._attend(q, metadata, kv_cache).view(qkv.shape[0], -1)

    def _written(self, qkv: Tensor, metadata: StepMetadata, kv_cache: Tensor) -> Tensor:
        """Puts keys and values into the cache; the queries [T, N, D]."""
        shape = self.shape
        if self._ia3 is not None:
            self._ia3(qkv, metadata.ia3_rows)
        heads = qkv.view(qkv.shape[0], -1, shape.head_dim)
        if shape.qkv_limit:
            heads = heads.clamp_(-shape.qkv_limit, shape.qkv_limit)
        q, k, v = torch.split(heads, self._split, 1)
        if self._q_norm is not None and self._k_norm is not None:
            q, k = _per_head(self._q_norm, q), _per_head(self._k_norm, k)
        rotation = metadata.positions, self.rope_table, shape.interleaved
        ops.add_to_cache(q, k, v, *rotation, kv_cache[0], kv_cache[1], metadata.slot_mapping)
        return q

    def _attend(self, q: Tensor, metadata: StepMetadata, kv_cache: Tensor) -> Tensor:
        """[T, N, D], over the cache with this step's keys and values."""
        shape = self.shape
        return ops.paged_attention(
            q,
            kv_cache[0],
            kv_cache[1],
            metadata.block_tables,
            metadata.seq_lens,
            metadata.cu_seqlens_q,
            metadata.work,
            metadata.workspace,
            metadata.max_seqlen_q,
            metadata.max_seqlen_k,
            shape.scale,
            shape.window,
            shape.soft_cap,
            self.alibi_slopes,
            self.relative_bias,
        )


def _per_head(norm: NormLayer, heads: Tensor) -> Tensor:
    """The norm of every head [T, N, D]."""
    return norm(heads.reshape(-1, heads.shape[2])).view(heads.shape)
