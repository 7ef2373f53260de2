# SPDX-License-Identifier: BSD-3-Clause
"""config.json of the Hugging Face families that FasterTransformer's classes hold, made from a spec."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from ...errors import ModelLoadError
from ...layers.position import LinearScaling
from ..checkpoint.fastertransformer.config import HUGGING_FACE
from ..families import ENCODERS, FAMILIES
from ..families.base import Family
from ..families.fastertransformer import as_stored
from ..hf_config import HFConfig
from ..spec import ModelSpec, Residual

_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "silu": "silu"}
_FREE = frozenset({"tie_word_embeddings", "position_offset", "embedding_scale"})
"""Fields in which two specs of one model may differ: the writers take care of them."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A family of config.json: its model in transformers, and its keys."""

    architecture: str
    keys: Callable[[ModelSpec], dict[str, Any]]


def _rotary(spec: ModelSpec) -> tuple[float, int, float]:
    """Theta, dimensions, linear scaling."""
    assert spec.rope is not None
    scaling = spec.rope.scaling
    return (
        spec.rope.theta,
        spec.rope.rotary_dim,
        scaling.factor if isinstance(scaling, LinearScaling) else 1.0,
    )


def _gpt2(spec: ModelSpec) -> dict[str, Any]:
    return {
        "n_embd": spec.hidden_size,
        "n_layer": spec.num_hidden_layers,
        "n_head": spec.num_attention_heads,
        "n_inner": spec.intermediate_size,
        "n_positions": spec.max_position_embeddings,
        "layer_norm_epsilon": spec.norm_eps,
        "activation_function": _ACTIVATIONS[spec.activation],
    }


def _sizes(spec: ModelSpec) -> dict[str, Any]:
    return {
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_hidden_layers,
        "num_attention_heads": spec.num_attention_heads,
        "max_position_embeddings": spec.max_position_embeddings,
    }


def _opt(spec: ModelSpec) -> dict[str, Any]:
    before = spec.residual is Residual.PRE
    return {
        **_sizes(spec),
        "word_embed_proj_dim": spec.hidden_size,
        "ffn_dim": spec.intermediate_size,
        "do_layer_norm_before": before,
        "_remove_final_layer_norm": before and not spec.final_norm,
        "activation_function": _ACTIVATIONS[spec.activation],
    }


def _bloom(spec: ModelSpec) -> dict[str, Any]:
    return {
        "hidden_size": spec.hidden_size,
        "n_layer": spec.num_hidden_layers,
        "n_head": spec.num_attention_heads,
        "seq_length": spec.max_position_embeddings,
        "layer_norm_epsilon": spec.norm_eps,
    }


def _gptj(spec: ModelSpec) -> dict[str, Any]:
    return {**_gpt2(spec), "rotary_dim": _rotary(spec)[1]}


def _gpt_neox(spec: ModelSpec) -> dict[str, Any]:
    theta, dim, factor = _rotary(spec)
    return {
        **_sizes(spec),
        "intermediate_size": spec.intermediate_size,
        "layer_norm_eps": spec.norm_eps,
        "hidden_act": _ACTIVATIONS[spec.activation],
        "use_parallel_residual": spec.residual is Residual.PARALLEL,
        "rotary_pct": dim / spec.head_dim,
        "rotary_emb_base": theta,
        **_rope_scaling(factor),
    }


def _llama(spec: ModelSpec) -> dict[str, Any]:
    theta, _, factor = _rotary(spec)
    return {
        **_sizes(spec),
        "num_key_value_heads": spec.num_key_value_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.intermediate_size,
        "rms_norm_eps": spec.norm_eps,
        "hidden_act": _ACTIVATIONS[spec.activation],
        "rope_theta": theta,
        **_rope_scaling(factor),
    }


def _rope_scaling(factor: float) -> dict[str, Any]:
    return {"rope_scaling": {"rope_type": "linear", "factor": factor}} if factor != 1.0 else {}


_TARGETS = {
    "opt": _Target("OPTForCausalLM", _opt),
    "bloom": _Target("BloomForCausalLM", _bloom),
    "gpt2": _Target("GPT2LMHeadModel", _gpt2),
    "gptj": _Target("GPTJForCausalLM", _gptj),
    "gpt_neox": _Target("GPTNeoXForCausalLM", _gpt_neox),
    "llama": _Target("LlamaForCausalLM", _llama),
}


_TRANSLATED = {
    "t5": ("T5ForConditionalGeneration", "T5EncoderModel"),
    "mt5": ("MT5ForConditionalGeneration", "MT5EncoderModel"),
    "bart": ("BartForConditionalGeneration", ""),
    "mbart": ("MBartForConditionalGeneration", ""),
    "m2m_100": ("M2M100ForConditionalGeneration", ""),
    "bert": ("", "BertModel"),
    "deberta-v2": ("", "DebertaV2Model"),
}
"""Models in transformers of families whose config.ini says what config.json does: that which generates, and
that which encodes."""
_NOT_THERE = (
    "model_name",
    "weight_data_type",
    "mbart",
    "size_per_head",
    "q_scaling",
    "t5_with_bias",
    "position_embedding_type",
    "adapter_inter_size",
    "adapter_norm_position",
    "decoder_adapter_inter_size",
    "decoder_adapter_norm_position",
    "ia3_num_tasks",
)
"""Words of config.ini alone."""


def hugging_face_config(
    name: str, config: HFConfig, spec: ModelSpec, is_encoder: bool
) -> tuple[dict[str, Any], Family, ModelSpec]:
    """The config.json that describes `spec`, the family that reads it, and what it is read as.

    Args:
        name: of the class. config: what its config.ini says; `model_name` is tried first.

    Raises:
        ModelLoadError: no family computes the same; names what the nearest one has differently.
    """
    preferred = config.text("model_name", "")
    candidates = [kind for kind in (*_TARGETS, *_TRANSLATED) if HUGGING_FACE[kind] == name]
    candidates.sort(key=lambda kind: kind != preferred)
    make = partial(_translate, config=config, spec=spec, is_encoder=is_encoder)
    made = {kind: make(kind) if kind in _TRANSLATED else _make(kind, spec) for kind in candidates}
    missing = {kind: differences(spec, as_stored(name, made[kind][2])) for kind in candidates}
    nearest = min(candidates, key=lambda kind: len(missing[kind]))
    left = missing[nearest]
    if left:
        raise ModelLoadError(f"no Hugging Face family computes this; {nearest} has no {', '.join(left)}")
    return made[nearest]


_SCALES_WORDS = frozenset({"bart", "mbart", "m2m_100"})
"""Whose config.json says whether; transformers takes one or the other where it does not."""


def _make(model_type: str, spec: ModelSpec) -> tuple[dict[str, Any], Family, ModelSpec]:
    target, family = _TARGETS[model_type], FAMILIES[model_type]
    config = {
        "model_type": model_type,
        "architectures": [target.architecture],
        "vocab_size": spec.vocab_size,
        "tie_word_embeddings": spec.tie_word_embeddings,
        **target.keys(spec),
    }
    return config, family, family.spec(HFConfig(config, "config.json").renamed(family.config_names))


def _translate(
    model_type: str, config: HFConfig, spec: ModelSpec, is_encoder: bool
) -> tuple[dict[str, Any], Family, ModelSpec]:
    family = ENCODERS.get(model_type, FAMILIES[model_type]) if is_encoder else FAMILIES[model_type]
    values = {key: config.raw(key) for key in config if config.has(key) and key not in _NOT_THERE}
    values |= {"model_type": model_type, "tie_word_embeddings": spec.tie_word_embeddings}
    values.setdefault("architectures", [_TRANSLATED[model_type][is_encoder]])
    if "d_model" not in values:
        values["hidden_size"] = spec.hidden_size
    if model_type in _SCALES_WORDS:
        values["scale_embedding"] = spec.embedding_scale != 1.0
    if model_type == "t5" and not is_encoder and spec.tie_word_embeddings != (spec.logits_scale != 1.0):
        values["scale_decoder_outputs"] = spec.logits_scale != 1.0
    if is_encoder and not any("For" in architecture for architecture in values["architectures"]):
        family = _without_prefix(family)
    return values, family, family.spec(HFConfig(values, "config.json").renamed(family.config_names))


def _without_prefix(family: Family) -> Family:
    """As transformers saves a model without heads."""
    names = {
        role: name.removeprefix(family.prefix) for role, name in family.names.items() if isinstance(name, str)
    }
    return replace(family, names={**family.names, **names})


def differences(wanted: ModelSpec, found: ModelSpec, of: str = "") -> list[str]:
    """What of `wanted` is not in `found`, each with its value."""
    names = [field.name for field in fields(ModelSpec) if field.name not in _FREE]
    left = [
        f"{of}{name} {_shown(getattr(wanted, name))}"
        for name in names
        if name != "encoder" and getattr(wanted, name) != getattr(found, name)
    ]
    if wanted.encoder is not None and found.encoder is not None:
        left += differences(wanted.encoder, found.encoder, "the encoder's ")
    return left


def _shown(value: Any) -> str:
    text = getattr(value, "name", None) or str(value)
    return text if len(text) < 60 else text[:57] + "..."
