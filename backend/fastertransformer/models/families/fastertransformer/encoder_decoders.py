# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's encoder-decoders (T5, BART with mBART, M2M100): specs, and names of the .bin files."""

from dataclasses import replace
from typing import Any

from ...hf_config import HFConfig
from ...spec import AdapterNorm, AdapterSpec, ModelSpec, Norm, Positions, Residual
from .. import bart as bart_family
from .. import t5 as t5_family

_FUSED = ("q", "k", "v")


def _with_fused_qkv(names: dict[str, Any], fused: str) -> dict[str, Any]:
    return {**{role: name for role, name in names.items() if role not in _FUSED}, "qkv": fused}


# T5


def t5(config: HFConfig) -> ModelSpec:
    """transformers' T5, or Megatron's: layer norms, biases and scaled scores, absolute positions."""
    spec = t5_family.t5(config)
    assert spec.encoder is not None
    changes: dict[str, Any] = {"ia3_num_tasks": config.integer("ia3_num_tasks", 0)}
    if config.choice("position_embedding_type", _POSITIONS, "relative") == "absolute":
        longest = config.integer("relative_attention_num_buckets")
        changes |= {"relative_bias": None, "positions": Positions.LEARNED, "max_position_embeddings": longest}
    has_bias = config.flag("t5_with_bias", False)
    if has_bias:
        changes |= {"norm": Norm.LAYER, "attention_scale": 0.0, "logits_scale": 1.0}
        changes |= dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), True)
    encoder = replace(spec.encoder, **changes, **_adapted(config, ""))
    return replace(spec, **changes, **_adapted(config, "decoder_"), head_bias=has_bias, encoder=encoder)


def _adapted(config: HFConfig, stack: str) -> dict[str, Any]:
    """What differs in a stack with adapters, which either may have."""
    size = config.integer(f"{stack}adapter_inter_size", 0)
    if not size:
        return {}
    norm = AdapterNorm[config.choice(f"{stack}adapter_norm_position", _NORM_PLACES, "pre")]
    adapter = AdapterSpec(intermediate_size=size, activation="silu", has_bias=False, norm=norm)
    return {"residual": Residual.ADAPTED, "adapter": adapter}


_NORM_PLACES = {"pre": "PRE", "post": "POST"}

_POSITIONS = {"relative": "relative", "absolute": "absolute"}


def _t5_names(names: dict[str, Any]) -> dict[str, Any]:
    gate, block = str(names["gate"]), str(names["norm1"]).removesuffix(".layer.0.layer_norm")
    return {
        **names,
        **{f"{role}_{part}": f"{block}.{place}.{name}" for role, place in _PLACES for part, name in _PARTS},
        **{f"{role}_ia3": f"{names[role]}.ia3" for role in _SCALED if role in names},
        "down_ia3": str(names["down"]).replace("wo", "ia3"),
        "positions": "shared.ape",
        "gate": gate.replace("wi_0", "wi"),
        "up": (gate.replace("wi_0", "wi2"), gate.replace("wi_0", "wi")),
    }


_SCALED = ("k", "v", "cross_k", "cross_v")
"""Products whose results have a factor for every IA3 task."""
_T5_SELF = "decoder.block.{layer}.layer.0.SelfAttention.qkv"
_PLACES = (("adapter1", "after_attention_adapter"), ("adapter2", "after_ffn_adapter"))
_PARTS = (("up", "DenseSiluDense.wi"), ("down", "DenseSiluDense.wo"), ("norm", "layer_norm"))
"""Of adapters."""
_PROMPTS = (r"^model\.(prompt_table|prefix_prompt)\.",)
"""Of tasks."""
T5 = replace(
    t5_family.T5,
    spec=t5,
    names=_with_fused_qkv(_t5_names(t5_family.NAMES), _T5_SELF) | {"logits_bias": "shared.bias"},
    encoder_names=_t5_names(dict(t5_family.T5.encoder_names)),
    transposed=True,
    ignored=_PROMPTS,
)
_ENCODER = t5_family.encoder_of(T5)
T5_ENCODER = replace(_ENCODER, ignored=(*_ENCODER.ignored, r"^shared\.bias$"))


# BART


def bart(config: HFConfig) -> ModelSpec:
    return stored(bart_family.mbart(config) if config.flag("mbart", False) else bart_family.bart(config))


def m2m(config: HFConfig) -> ModelSpec:
    return stored(bart_family.m2m_100(config))


def stored(spec: ModelSpec) -> ModelSpec:
    """What files of BART and M2M100 hold of `spec`: factors are in the word tables, no table is left out."""
    encoder = None if spec.encoder is None else stored(spec.encoder)
    positions = Positions.LEARNED if spec.positions is not Positions.NONE else Positions.NONE
    return replace(
        spec,
        embedding_scale=1.0,
        position_offset=0,
        positions=positions,
        tie_word_embeddings=False,
        encoder=encoder,
    )


def _stack(stack: str) -> dict[str, str]:
    layer = f"{stack}.{{layer}}.layer.SelfAttention"
    return {
        "embedding": f"{stack}.embed_tokens",
        "positions": f"{stack}.embed_positions",
        "embedding_norm": f"{stack}.final_layer_norm",
        "final_norm": f"{stack}.layer_norm",
        "norm1": f"{layer}.attn_layer_norm",
        "q": f"{layer}.q",
        "k": f"{layer}.k",
        "v": f"{layer}.v",
        "output": f"{layer}.out_proj",
        "norm2": f"{layer}.final_layer_norm",
        "up": f"{layer}.fc1",
        "down": f"{layer}.fc2",
    }


_CROSS = "decoder.{layer}.layer.CrossAttention"
_DECODER = {
    **_with_fused_qkv(_stack("decoder"), "decoder.{layer}.layer.SelfAttention.qkv"),
    "head": "decoder.lm_head",
    "cross_norm": f"{_CROSS}.attn_layer_norm",
    "cross_q": f"{_CROSS}.q",
    "cross_k": f"{_CROSS}.k",
    "cross_v": f"{_CROSS}.v",
    "cross_output": f"{_CROSS}.out_proj",
}
M2M = replace(
    bart_family.M2M_100,
    spec=m2m,
    names=_DECODER,
    encoder_names=_stack("encoder"),
    transposed=True,
    ignored=(r"\.embed_positions\.padding$",),
)
BART = replace(M2M, spec=bart, names={**_DECODER, "logits_bias": "decoder.final_logits_bias"})
