# SPDX-License-Identifier: BSD-3-Clause
"""What comes behind an encoder: chains of small layers, and what makes one vector of a sentence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from .embedding import Head
from .linear import Linear
from .norm import NormLayer

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, slots=True)
class Dense:
    """norm(act(linear(x)))"""

    linear: Linear
    activation: str
    norm: NormLayer | None

    def __call__(self, x: Tensor) -> Tensor:
        y = ACTIVATIONS[self.activation](self.linear(x))
        return y if self.norm is None else self.norm(y)


@dataclass(frozen=True, slots=True)
class Chain:
    """Layers one behind the other; the same on every rank."""

    layers: Sequence[Dense | Head]

    def __call__(self, x: Tensor) -> Tensor:
        """[n, H] -> [n, W] float32"""
        for layer in self.layers:
            x = layer(x)
        return x.float()


class Pool(Enum):
    """How a sentence's tokens become one vector; the values are sentence-transformers' names."""

    CLS = "cls_token"
    MAX = "max_tokens"
    MEAN = "mean_tokens"
    MEAN_SQRT = "mean_sqrt_len_tokens"
    LAST = "lasttoken"


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """Pooled tokens, side by side where several ways are pooled; then the layers; then, if so, length 1."""

    pools: Sequence[Pool]
    layers: Sequence[Dense]
    normalised: bool

    def __call__(self, tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
        """[n, H] tokens of sentences that begin at `cu_seqlens` [b + 1] int32 -> [b, W] float32."""
        pooled = [_pool(pool, tokens, cu_seqlens) for pool in self.pools]
        x = pooled[0] if len(pooled) == 1 else torch.cat(pooled, -1)
        for layer in self.layers:
            x = layer(x)
        return F.normalize(x, dim=-1) if self.normalised else x


def _pool(pool: Pool, tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
    match pool:
        case Pool.CLS:
            return tokens.index_select(0, cu_seqlens[:-1]).float()
        case Pool.LAST:
            return tokens.index_select(0, cu_seqlens[1:] - 1).float()
        case Pool.MAX:
            return ops.pool(tokens, cu_seqlens, "max")
        case Pool.MEAN:
            return ops.pool(tokens, cu_seqlens, "mean")
        case Pool.MEAN_SQRT:
            return ops.pool(tokens, cu_seqlens, "sum") / cu_seqlens.diff().sqrt()[:, None]
