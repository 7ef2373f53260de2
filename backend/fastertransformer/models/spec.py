# SPDX-License-Identifier: BSD-3-Clause
"""What distinguishes one transformer from another, as data. Sizes have their Hugging Face names."""

from dataclasses import dataclass, replace
from enum import Enum

from ..layers.position import RelativeBias, RopeSpec


class Norm(Enum):
    """Which normalisation: root mean square with a weight, or centred, with weight and bias."""

    RMS = "rms_norm"
    LAYER = "layer_norm"


class Residual(Enum):
    """How the sublayers of a block meet the residual stream; models.block has a function for each."""

    PRE = "a norm before each sublayer"
    POST = "a norm behind each sum"
    PARALLEL = "attention and MLP behind norms of their own, side by side"
    PARALLEL_ONE_NORM = "attention and MLP behind one norm, side by side"
    SANDWICH = "norms before and behind each sublayer"
    ADAPTED = "a norm before each sublayer, and behind each an MLP that adds to its result"


class Positions(Enum):
    """What is added to the embedding for a token's position."""

    NONE = "nothing"
    LEARNED = "a row of a table in the checkpoint"
    SINUSOIDAL = "sines and cosines, with tensor2tensor's frequencies"
    SINUSOIDAL_PAPER = "sines and cosines, with those of arXiv 1706.03762"


SINUSOIDAL_SPREADS = {Positions.SINUSOIDAL: 1, Positions.SINUSOIDAL_PAPER: 0}
"""What layers.position.sinusoidal_table calls `spread`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """Experts of which every token goes through some."""

    num_experts: int
    num_experts_per_tok: int
    intermediate_size: int
    """Of one expert."""
    normalised: bool
    """The shares of a token's experts add up to 1."""
    shared_intermediate_size: int = 0
    """Of an expert that every token goes through; 0: there is none."""
    dense_layers: frozenset[int] = frozenset()
    """Have one MLP of the model's intermediate_size instead."""


class AdapterNorm(Enum):
    """Where an adapter has a layer norm."""

    NONE = "nowhere"
    PRE = "of what it takes"
    POST = "of what it adds"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """An MLP that adds to the result of a sublayer. (FasterTransformer, layers/adapter_layers)"""

    intermediate_size: int
    activation: str
    has_bias: bool
    norm: AdapterNorm = AdapterNorm.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder, the encoder that it attends to where there is one, or an encoder alone."""

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
    tie_word_embeddings: bool

    embedding_size: int = 0
    """Columns of word table and head where projections lie between them and the blocks; 0: hidden_size."""
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    positions: Positions = Positions.NONE
    position_offset: int = 0
    """Rows of the table before that of position 0."""

    residual: Residual = Residual.PRE
    residual_scale: float = 1.0
    """Of what the last product of every sublayer yields."""
    norm_weight: bool = True
    norm_bias: bool = True
    """Of layer norms: whether the checkpoint has them."""
    norm_offset: float = 0.0
    """Added to the weight of every norm."""
    final_norm: bool = True

    rope: RopeSpec | None = None
    ropes: tuple[RopeSpec | None, ...] = ()
    """Per layer, where they differ."""
    alibi_slopes: tuple[float, ...] = ()
    """Of every head; none: no bias by distance."""
    relative_bias: RelativeBias | None = None
    windows: tuple[int, ...] = ()
    """Keys that a query sees, itself included, per layer; 0 or nothing: all before it."""
    attention_scale: float = 0.0
    """Of the scores; 0: 1 / sqrt(head_dim)."""
    attention_soft_cap: float = 0.0
    """c of c * tanh(score / c); 0 leaves it out."""
    qk_norm: Norm | None = None
    """Of every query and key head before the rotation."""
    qkv_limit: float = 0.0
    """Queries, keys and values are clipped to [-limit, limit]; 0 leaves them alone."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Of the product behind the attention."""

    gated_mlp: bool = False
    """The MLP is act(gate(x)) * up(x) instead of act(up(x))."""
    mlp_bias: bool = False
    moe: MoeSpec | None = None
    adapter: AdapterSpec | None = None
    """Of `Residual.ADAPTED`: behind the attention of a layer to itself, and behind its MLP."""
    ia3_num_tasks: int = 0
    """Tasks that have factors of their own for keys, values and the MLP's inner activations."""

    head_bias: bool = False
    """Stored as `head.bias`, or as role `logits_bias`, a row [1, V]."""
    logits_scale: float = 1.0
    logits_soft_cap: float = 0.0
    """c of c * tanh(logit / c); 0 leaves it out."""

    half_stream_scale: float = 1.0
    """Of the residual stream in float16, which it outgrows as it is: a power of 2. See `in_half`."""
    stream_scale: float = 1.0
    """Of all that is added to the residual stream."""

    encoder: "ModelSpec | None" = None
    """The decoder's layers attend to its output."""

    def in_half(self) -> "ModelSpec":
        """The same model in float16. All that is added to the residual stream is times `half_stream_scale`,
        and the norms that read it have an epsilon times its square: what they yield is the same."""
        scale, encoder = self.half_stream_scale, self.encoder
        return replace(
            self,
            stream_scale=scale,
            norm_eps=self.norm_eps * scale**2,
            encoder=None if encoder is None else encoder.in_half(),
        )

    @property
    def sublayer_scale(self) -> float:
        """Of the last product of every sublayer, and of its bias."""
        return self.residual_scale * self.stream_scale

    def window_of(self, layer: int) -> int:
        return self.windows[layer] if self.windows else 0

    def rope_of(self, layer: int) -> RopeSpec | None:
        return self.ropes[layer] if self.ropes else self.rope

    def moe_of(self, layer: int) -> MoeSpec | None:
        return self.moe if self.moe is not None and layer not in self.moe.dense_layers else None
