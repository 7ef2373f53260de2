# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's decoders (GPT, GPT-J, GPT-NeoX, llama): specs, and names of the .bin files."""

from collections.abc import Mapping
from typing import Any

from ....layers.position import LinearScaling, RopeSpec, alibi_slopes
from ...hf_config import REQUIRED, HFConfig
from ...spec import AdapterSpec, ModelSpec, Norm, Positions, Residual
from ..base import Family

LONGEST = 16384
"""Positions of a model whose config.ini has no max_pos_seq_len: FasterTransformer's own limit."""
ACTIVATIONS = {
    "Gelu": "gelu_tanh",
    "gelu": "gelu_tanh",
    "Relu": "relu",
    "relu": "relu",
    "Silu": "silu",
    "silu": "silu",
}
EXACT_GELU = {"GeluErf": "gelu"}
"""Not FasterTransformer's, whose GPT-NeoX does not read the key and takes the tanh form."""

_LAYER = "model.layers.{layer}."
_NAMES = {
    "embedding": "model.wte",
    "final_norm": "model.final_layernorm",
    "head": "model.lm_head",
    "norm1": _LAYER + "input_layernorm",
    "qkv": _LAYER + "attention.query_key_value",
    "output": _LAYER + "attention.dense",
}
_MLP = {"up": _LAYER + "mlp.dense_h_to_4h", "down": _LAYER + "mlp.dense_4h_to_h"}
_NORM2 = {"norm2": _LAYER + "post_attention_layernorm"}
_ADAPTERS = {
    f"adapter{number}_{role}": f"{_LAYER}{place}.{name}"
    for number, place in ((1, "after_attention_adapter"), (2, "after_ffn_adapter"))
    for role, name in (("up", "dense_h_to_4h"), ("down", "dense_4h_to_h"))
}
_POSITIONS = {"positions": "model.wpe", "embedding_norm": "model.pre_decoder_layernorm"}
_GATED = {
    "gate": _LAYER + "mlp.gate_proj",
    "up": _LAYER + "mlp.up_proj",
    "down": _LAYER + "mlp.down_proj",
}


def gpt(config: HFConfig) -> ModelSpec:
    has_positions = config.flag("has_positional_encoding", True)
    heads = config.integer("head_num")
    activation = config.choice("activation_type", ACTIVATIONS, "Gelu")
    has_adapters = config.flag("has_adapters", False)
    if has_adapters:
        config.only("layernorm_type", "pre_layernorm")
    after = config.choice("layernorm_type", {"pre_layernorm": "", "post_layernorm": "post"}, "pre_layernorm")
    return ModelSpec(
        **_sizes(config, REQUIRED if has_positions else LONGEST),
        norm=Norm.LAYER,
        norm_eps=config.number("layernorm_eps", 1e-6),
        activation=activation,
        positions=Positions.LEARNED if has_positions else Positions.NONE,
        alibi_slopes=alibi_slopes(heads) if config.flag("use_attention_linear_bias", False) else (),
        embedding_norm=config.flag("has_pre_decoder_layernorm", False),
        residual=Residual.POST if after else Residual.ADAPTED if has_adapters else Residual.PRE,
        adapter=_adapter(config, activation) if has_adapters else None,
        final_norm=config.flag("has_post_decoder_layernorm", True),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )


def _adapter(config: HFConfig, activation: str) -> AdapterSpec:
    size = config.integer("adapter_inter_size", config.integer("inter_size"))
    return AdapterSpec(intermediate_size=size, activation=activation, has_bias=True)


def gptj(config: HFConfig) -> ModelSpec:
    return ModelSpec(
        **_sizes(config, LONGEST),
        norm=Norm.LAYER,
        norm_eps=config.number("layernorm_eps", 1e-5),
        activation=config.choice("activation_type", ACTIVATIONS, "Gelu"),
        residual=Residual.PARALLEL_ONE_NORM,
        rope=_rope(config, interleaved=True),
        mlp_bias=True,
        head_bias=True,
    )


def gptneox(config: HFConfig) -> ModelSpec:
    return ModelSpec(
        **_sizes(config, LONGEST),
        norm=Norm.LAYER,
        norm_eps=config.number("layernorm_eps", 1e-5),
        activation=config.choice("activation_type", ACTIVATIONS | EXACT_GELU, "Gelu"),
        residual=Residual.PARALLEL if config.flag("use_gptj_residual", True) else Residual.PRE,
        rope=_rope(config),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )


def llama(config: HFConfig) -> ModelSpec:
    return ModelSpec(
        **_sizes(config, LONGEST),
        norm=Norm.RMS,
        norm_eps=config.number("layernorm_eps"),
        activation=config.choice("activation_type", ACTIVATIONS, "Silu"),
        gated_mlp=True,
        rope=_rope(config),
    )


def _sizes(config: HFConfig, longest: Any) -> dict[str, Any]:
    heads, head_dim = config.integer("head_num"), config.integer("size_per_head")
    return {
        "hidden_size": heads * head_dim,
        "num_hidden_layers": config.integer("num_layer"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.integer("kv_head_num", heads),
        "head_dim": head_dim,
        "intermediate_size": config.integer("inter_size"),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.integer("max_pos_seq_len", longest),
        "tie_word_embeddings": config.flag("tie_word_embeddings"),
    }


def _rope(config: HFConfig, interleaved: bool = False) -> RopeSpec:
    factor = config.number("rope_scaling_factor", 1.0)
    return RopeSpec(
        config.number("rope_theta", 10_000.0),
        config.integer("rotary_embedding"),
        interleaved=interleaved,
        scaling=None if factor == 1.0 else LinearScaling(factor),
    )


_IGNORED = (
    r"^model\.(prompt_table|prefix_prompt)\.",
    r"^model\.wpe\.padding$",
    r"\.(int8|scale|scale_inter|scale_out)$",
    r"\.mlp\.attention\.bias\.sum$",
)
"""Prompts of tasks, rows of transformers alone, SmoothQuant's values, sums that the reader takes apart."""


def _family(spec: Any, names: Mapping[str, str]) -> Family:
    return Family(spec, {**_NAMES, **names}, transposed=True, ignored=_IGNORED)


DECODERS: dict[str, Family] = {
    "gpt": _family(gpt, {**_MLP, **_NORM2, **_POSITIONS, **_ADAPTERS}),
    "gptj": _family(gptj, _MLP),
    "gptneox": _family(gptneox, {**_MLP, **_NORM2}),
    "llama": _family(llama, {**_GATED, **_NORM2}),
}
"""By the section of config.ini."""
