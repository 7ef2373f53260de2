# SPDX-License-Identifier: BSD-3-Clause
"""The encoder: this rank's layers of it, and what is made of the tokens behind them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...layers.attention import rows_of
from ...layers.convolution import Convolution
from ...layers.disentangled_attention import DisentangledAttention
from ...layers.embedding import Embedding, add_positions
from ...layers.encoder_attention import EncoderAttention, EncoderMetadata
from ...layers.heads import Chain, Pool, SentenceEmbedding
from ...layers.linear import Linear
from ...layers.mlp import Mlp
from ...layers.norm import NormLayer
from ...parallel.comm import Communicator
from ..block_builder import EncoderBlock as StreamBlock
from ..spec import ModelSpec
from ..transformer import CheckpointInfo
from .spec import EncodingSpec, Rows

Attend = EncoderAttention | DisentangledAttention

LAST_HIDDEN_STATE = "last_hidden_state"
EMBEDDING = "embedding"
ATTENTIONS = "attentions"


@dataclass(frozen=True, slots=True)
class PostBlock:
    """A layer with a norm behind each sum."""

    attention: Attend
    norm1: NormLayer
    mlp: Mlp
    norm2: NormLayer
    group: Communicator

    def __call__(self, hidden: Tensor, metadata: EncoderMetadata) -> Tensor:
        """[T, H], overwritten -> [S, H] of the tokens that are kept."""
        attended, hidden = self.attention(hidden, metadata), rows_of(hidden, metadata.kept)
        middle = self.group.all_reduce_norm(attended, hidden, self.norm1)
        return self.group.all_reduce_norm(self.mlp(middle), middle, self.norm2)


@dataclass(frozen=True, slots=True)
class ConvolvedBlock:
    """A layer, and a convolution of what goes into it that adds to what comes out."""

    block: PostBlock
    convolution: Convolution
    norm: NormLayer

    def __call__(self, hidden: Tensor, metadata: EncoderMetadata) -> Tensor:
        """[T, H], overwritten -> [S, H] of the tokens that are kept."""
        convolved = rows_of(self.convolution(hidden, metadata), metadata.kept)
        return self.norm.add(convolved, self.block(hidden, metadata))


@dataclass(frozen=True, slots=True)
class PreStack:
    """Layers that add to a stream, and the norm of what it comes to; None: the next stage goes on with it."""

    layers: tuple[StreamBlock, ...]
    final_norm: NormLayer | None

    def __call__(self, hidden: Tensor, metadata: EncoderMetadata) -> Tensor:
        """[T, H], overwritten -> [S, H] of the tokens that are kept."""
        x, whole, (*others, last) = None, replace(metadata, kept=None), self.layers
        for layer in others:
            x, hidden = layer(x, hidden, whole)
        x, hidden = last(x, hidden, metadata)
        return last.finish(x, hidden, self.final_norm)


@dataclass(frozen=True, slots=True)
class InputEmbedding:
    """norm(project(words + positions + token types)), as far as the model has them."""

    words: Embedding
    positions: Tensor | None
    """[P, E]"""
    token_types: Tensor | None
    """[types, E]"""
    project: Linear | None
    norm: NormLayer | None

    def __call__(self, ids: Tensor, positions: Tensor, token_types: Tensor | None) -> Tensor:
        """[T] int32 each -> [T, H]; None: all tokens are of type 0."""
        hidden = self.words(ids)
        if self.positions is not None:
            hidden = add_positions(hidden, self.positions, positions)
        if self.token_types is not None:
            hidden = (
                hidden.add_(self.token_types[0])
                if token_types is None
                else add_positions(hidden, self.token_types, token_types)
            )
        hidden = hidden if self.project is None else self.project(hidden)
        return hidden if self.norm is None else self.norm(hidden)


def base_outputs(encoding: EncodingSpec) -> tuple[str, ...]:
    """What every input can be encoded to, whatever heads there are."""
    maps = (ATTENTIONS,) if encoding.disentangled is None else ()
    return (LAST_HIDDEN_STATE, EMBEDDING, *maps)


@dataclass(frozen=True, slots=True)
class EncoderHead:
    """A chain, and what it sees and yields."""

    rows: Rows
    width: int
    chain: Chain | None
    """On the last stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderModel:
    """One pipeline stage of an encoder on one tensor-parallel rank."""

    spec: ModelSpec
    encoding: EncodingSpec
    info: CheckpointInfo
    dtype: torch.dtype
    device: torch.device
    weight_bytes: int
    """On this rank."""
    step_bytes: int
    """Of them, what a step reads: all but tables from which it takes single rows."""
    embedding: InputEmbedding | None
    """On the first stage, where the checkpoint has one."""
    blocks: tuple[PostBlock | ConvolvedBlock, ...] | tuple[PreStack]
    heads: Mapping[str, EncoderHead]
    """By what they yield, the same names on every stage."""
    sentence: SentenceEmbedding
    sentence_width: int

    @property
    def layer_bytes(self) -> int:
        """What a step reads of weights for each layer, where one stage has them all."""
        return self.step_bytes // self.spec.num_hidden_layers

    @property
    def outputs(self) -> tuple[str, ...]:
        """What an input can be encoded to."""
        return (*base_outputs(self.encoding), *self.heads)

    def shape(self, output: str, num_tokens: int) -> tuple[int, ...]:
        """Of what an input of so many tokens is encoded to."""
        if output == LAST_HIDDEN_STATE:
            return num_tokens, self.spec.hidden_size
        if output == EMBEDDING:
            return (self.sentence_width,)
        if output == ATTENTIONS:
            return self.spec.num_hidden_layers, self.spec.num_attention_heads, num_tokens, num_tokens
        head = self.heads[output]
        return (num_tokens, head.width) if head.rows is Rows.TOKENS else (head.width,)

    def kv_cache_shape(self, num_blocks: int, block_size: int) -> tuple[int, ...]:
        """An encoder keeps nothing between steps."""
        return (0,)

    def embed(self, ids: Tensor, positions: Tensor, token_types: Tensor | None) -> Tensor:
        """[T] int32 each -> [T, H]; first stage only."""
        assert self.embedding is not None
        return self.embedding(ids, positions, token_types)

    def needs_first_tokens(self, outputs: Iterable[str]) -> bool:
        """Whether these are made of an input's first token alone."""
        return all(
            all(pool is Pool.CLS for pool in self.sentence.pools)
            if output == EMBEDDING
            else output in self.heads and self.heads[output].rows is Rows.FIRST
            for output in outputs
        )

    def forward(self, hidden: Tensor, metadata: EncoderMetadata) -> Tensor:
        """[T, H] through the layers of this stage, overwritten; `metadata.kept` is of its last layer."""
        whole, (*others, last) = replace(metadata, kept=None), self.blocks
        for block in others:
            hidden = block(hidden, whole)
        return last(hidden, metadata)

    def encode(self, output: str, tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
        """What inputs are encoded to, one behind the other, float32; last stage only. Not ATTENTIONS, which
        all stages collect.

        Args:
            tokens: [n, H], the last hidden states of these inputs.
            cu_seqlens: [b + 1] int32, where each of them begins.
        """
        if output == LAST_HIDDEN_STATE:
            return tokens.float()
        if output == EMBEDDING:
            return self.sentence(tokens, cu_seqlens)
        head = self.heads[output]
        assert head.chain is not None
        is_first = head.rows is Rows.FIRST
        return head.chain(tokens.index_select(0, cu_seqlens[:-1]) if is_first else tokens)
