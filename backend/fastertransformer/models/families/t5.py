# SPDX-License-Identifier: BSD-3-Clause
"""T5, mT5, ByT5, UMT5: RMS norms, no biases but learned ones by distance, no positions, unscaled scores."""

from dataclasses import replace
from typing import Any

from ...layers.position import RelativeBias
from ..encoding.spec import EncodingSpec
from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm
from .base import Family, activation, decoder

MAX_POSITIONS = 4096
"""Of encoder and decoder each: the family itself has no limit."""

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
    "gated-gelu": "gelu_tanh",
    "gated-relu": "relu",
    "gated-silu": "silu",
}


def _stack(stack: str, mlp: int) -> dict[str, str | tuple[str, ...]]:
    layer = f"{stack}.block.{{layer}}.layer"
    dense = f"{layer}.{mlp}.DenseReluDense"
    return {
        "embedding": "shared",
        "final_norm": f"{stack}.final_layer_norm",
        "norm1": f"{layer}.0.layer_norm",
        "q": f"{layer}.0.SelfAttention.q",
        "k": f"{layer}.0.SelfAttention.k",
        "v": f"{layer}.0.SelfAttention.v",
        "output": f"{layer}.0.SelfAttention.o",
        "relative_bias": f"{layer}.0.SelfAttention.relative_attention_bias",
        "norm2": f"{layer}.{mlp}.layer_norm",
        "gate": f"{dense}.wi_0",
        "up": (f"{dense}.wi_1", f"{dense}.wi"),
        "down": f"{dense}.wo",
    }


_CROSS = "decoder.block.{layer}.layer.1"
NAMES = {
    **_stack("decoder", 2),
    "head": ("lm_head", "shared"),
    "cross_norm": f"{_CROSS}.layer_norm",
    "cross_q": f"{_CROSS}.EncDecAttention.q",
    "cross_k": f"{_CROSS}.EncDecAttention.k",
    "cross_v": f"{_CROSS}.EncDecAttention.v",
    "cross_output": f"{_CROSS}.EncDecAttention.o",
}


def _activation(config: HFConfig) -> str:
    kind = config.choice("feed_forward_proj", _ACTIVATIONS, "relu")
    return activation(config, "dense_act_fn", "") if config.has("dense_act_fn") else kind


def _t5(config: HFConfig, is_shared: bool, is_scaled: bool) -> ModelSpec:
    projection = config.text("feed_forward_proj", "relu")
    bias = RelativeBias(
        config.integer("relative_attention_num_buckets", 32),
        config.integer("relative_attention_max_distance", 128),
        is_shared,
    )
    common: dict[str, Any] = {
        "max_position_embeddings": MAX_POSITIONS,
        "norm": Norm.RMS,
        "norm_eps": config.number("layer_norm_epsilon", 1e-6),
        "activation": _activation(config),
        "gated_mlp": projection.startswith("gated-"),
        "attention_scale": 1.0,
        "relative_bias": bias,
        "half_stream_scale": 1 / 64,  # large checkpoints reach some hundred thousands
        "tie_word_embeddings": False,  # the head has the name of the embedding where it is the same
    }
    num_layers = config.integer("num_hidden_layers")
    return decoder(
        config,
        **common,
        num_hidden_layers=config.integer("num_decoder_layers", num_layers),
        logits_scale=config.integer("hidden_size") ** -0.5 if is_scaled else 1.0,
        encoder=decoder(config, **common),
    )


_GATED = {"feed_forward_proj": "gated-gelu"}
"""Where the config of a later T5 does not say."""


def _scales(config: HFConfig) -> bool:
    """Models whose config says that they are tied were trained with scaled outputs."""
    return config.flag("scale_decoder_outputs", config.flag("tie_word_embeddings", True))


def t5(config: HFConfig) -> ModelSpec:
    return _t5(config, is_shared=True, is_scaled=_scales(config))


def mt5(config: HFConfig) -> ModelSpec:
    return _t5(config.completed(**_GATED), is_shared=True, is_scaled=False)


def umt5(config: HFConfig) -> ModelSpec:
    return _t5(config.completed(**_GATED), is_shared=False, is_scaled=_scales(config))


T5 = Family(
    t5,
    NAMES,
    encoder_names=_stack("encoder", 1),
    config_names={
        "d_model": "hidden_size",
        "d_kv": "head_dim",
        "d_ff": "intermediate_size",
        "num_heads": "num_attention_heads",
        "num_layers": "num_hidden_layers",
    },
    ignored=(r"coder\.embed_tokens\.weight$", r"EncDecAttention\.relative_attention_bias\.weight$"),
)
MT5 = replace(T5, spec=mt5)
UMT5 = replace(T5, spec=umt5)


def encoder_of(family: Family) -> Family:
    """The encoder alone; the decoder may lie beside it."""

    def spec(config: HFConfig) -> ModelSpec:
        encoder = family.spec(config).encoder
        assert encoder is not None
        return encoder

    return replace(
        family,
        spec=spec,
        names=family.encoder_names,
        encoder_names={},
        encoding=lambda _: EncodingSpec(),
        ignored=(*family.ignored, r"^decoder\.", r"^lm_head\."),
    )


T5_ENCODER, MT5_ENCODER, UMT5_ENCODER = map(encoder_of, (T5, MT5, UMT5))
