# SPDX-License-Identifier: BSD-3-Clause
"""What distinguishes one transformer from another, as data. Sizes have their Hugging Face names."""

from dataclasses import dataclass
from enum import Enum

from ..layers.position import RopeSpec


class Norm(Enum):
    """Which normalisation, and with it whether there is a bias."""

    RMS = "rms_norm"
    LAYER = "layer_norm"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only transformer with a norm before each sublayer."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    norm: Norm
    norm_eps: float
    activation: str
    """A kind of ops.activation."""
    gated_mlp: bool = False
    """The MLP is act(gate(x)) * up(x) instead of act(up(x))."""
    rope: RopeSpec | None = None
    """None: positions are a learned table, added to the embedding."""
    windows: tuple[int, ...] = ()
    """Keys that a query sees, itself included, per layer; 0 or nothing: all before it."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Of the product behind the attention."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMS norm of every query and key head before the rotation."""
    tie_word_embeddings: bool = False

    def window(self, layer: int) -> int:
        return self.windows[layer] if self.windows else 0
