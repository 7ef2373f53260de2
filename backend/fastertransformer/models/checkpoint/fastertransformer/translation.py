# SPDX-License-Identifier: BSD-3-Clause
"""config.ini of the encoders and encoder-decoders, in the words of transformers' config.json and back."""

import json
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from dataclasses import dataclass, field
from typing import Any

from ....errors import ModelLoadError
from ...families.fastertransformer.decoders import LONGEST
from ...hf_config import HFConfig
from ...spec import ModelSpec

Sections = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Key:
    """One value."""

    name: str
    """In config.json."""
    section: str
    key: str = ""
    """In config.ini; empty: the same."""
    default: Any = None
    """What an absent one means in config.json; None: leave it out."""
    missing: Any = None
    """What an absent one means in config.ini; None: leave it out."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What config.ini's words mean, where that is something else."""

    @property
    def place(self) -> str:
        return self.key or self.name


_TANH = {"gelu": "gelu_new", "Gelu": "gelu_new", "Relu": "relu", "Silu": "silu"}
"""FasterTransformer's GELU is the one with tanh, whatever the source had."""
_GATED = {"geglu": "gated-gelu", "GeGLU": "gated-gelu", "reglu": "gated-relu", "ReGLU": "gated-relu"}
_GATED |= {"siglu": "gated-silu", "SiGLU": "gated-silu"}
_PLAIN = {"gelu_new": "gelu", "gelu_fast": "gelu", "gelu_pytorch_tanh": "gelu", "swish": "silu"}
"""What FasterTransformer calls transformers' activations."""


def _keys(section: str, *names: str) -> tuple[Key, ...]:
    return tuple(Key(name, section) for name in names)


_IDS = ("decoder_start_token_id", "eos_token_id", "bos_token_id", "pad_token_id")
_T5_SIZES = ("d_model", "d_kv", "d_ff", "num_heads", "vocab_size")
_ADAPTERS = ("adapter_inter_size", "adapter_norm_position")
_BUCKETS = ("relative_attention_num_buckets_or_max_pos_seq_len", 32)
_T5 = (
    Key("model_name", "encoder", "model_type"),
    Key("model_name", "encoder"),
    *_keys("encoder", *_T5_SIZES, "num_layers", *_ADAPTERS),
    Key("feed_forward_proj", "encoder", default="relu", words=_TANH | _GATED),
    Key("relative_attention_num_buckets", "encoder", *_BUCKETS),
    Key("relative_attention_max_distance", "encoder", default=128),
    Key("layer_norm_epsilon", "encoder", default=1e-6),
    *_keys("decoder", *_T5_SIZES),
    Key("num_decoder_layers", "decoder", "num_layers"),
    Key("relative_attention_num_buckets", "decoder", *_BUCKETS),
    *(Key(f"decoder_{name}", "decoder", name) for name in _ADAPTERS),
    *_keys("decoder", *_IDS, "tie_word_embeddings"),
    Key("position_embedding_type", "structure", words={"0": "absolute", "1": "relative"}),
    *_keys("structure", "t5_with_bias", "ia3_num_tasks"),
)
_M2M = (
    *_keys("encoder", "model_name", "d_model", "vocab_size"),
    Key("encoder_attention_heads", "encoder", "num_heads"),
    Key("encoder_ffn_dim", "encoder", "d_ff"),
    Key("encoder_layers", "encoder", "num_layers"),
    Key("max_position_embeddings", "encoder", "max_pos_seq_len"),
    Key("activation_function", "encoder", "feed_forward_proj", "gelu", words=_TANH),
    Key("activation_function", "encoder"),
    *_keys("decoder", "d_model", "vocab_size"),
    Key("decoder_attention_heads", "decoder", "num_heads"),
    Key("decoder_ffn_dim", "decoder", "d_ff"),
    Key("decoder_layers", "decoder", "num_layers"),
    Key("max_position_embeddings", "decoder", "max_pos_seq_len"),
    Key("forced_bos_token_id", "decoder", "forced_bos_id"),
    *_keys("decoder", *_IDS),
)


def _of_encoder(section: str, *names: str) -> tuple[Key, ...]:
    common = ("hidden_size", "layer_norm_eps", "hidden_act", "architectures", "id2label", "num_labels")
    return (
        Key("model_name", section),
        Key("num_hidden_layers", section, "num_layer"),
        Key("num_attention_heads", section, "head_num"),
        Key("intermediate_size", section, "inter_size"),
        Key("hidden_act", section, "activation_type", "gelu", "gelu_new", _TANH),
        *_keys(section, *common, "tie_word_embeddings", "pad_token_id", "size_per_head", "q_scaling", *names),
    )


_BERT = (
    *_of_encoder("bert", "type_vocab_size", "position_embedding_type"),
    Key("vocab_size", "bert", missing=1),
    Key("max_position_embeddings", "bert", missing=LONGEST),
)
_DEBERTA = (
    *_of_encoder("deberta", "vocab_size", "max_relative_positions", "pooler_hidden_act", "legacy"),
    Key("position_buckets", "deberta", "relative_position_buckets"),
    Key("max_position_embeddings", "deberta", missing=512),
)


def _t5_more(_: HFConfig, spec: ModelSpec) -> Sections:
    sections = {
        "structure": {
            "t5_with_bias": "false",
            "use_gated_activation": str(spec.gated_mlp).lower(),
            "position_embedding_type": "relative",
        },
    }
    if spec.encoder is None:
        return sections
    return {**sections, "decoder": {"tie_word_embeddings": str(spec.logits_scale != 1.0).lower()}}


def _bart_more(config: HFConfig, spec: ModelSpec) -> Sections:
    assert spec.encoder is not None
    sections = {
        name: {"d_kv": str(part.head_dim)} for name, part in (("encoder", spec.encoder), ("decoder", spec))
    }
    sections["encoder"]["mbart"] = str(config.model_type == "mbart").lower()
    return sections


def _encoder_more(section: str, q_scaling: float) -> Callable[[HFConfig, ModelSpec], Sections]:
    return lambda _, spec: {section: {"size_per_head": str(spec.head_dim), "q_scaling": str(q_scaling)}}


@dataclass(frozen=True, slots=True)
class Translation:
    """Of one class."""

    keys: tuple[Key, ...]
    more: Callable[[HFConfig, ModelSpec], Sections]
    """What config.ini says beside the keys, by config.json and what it is read as."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What config.json says of all models."""

    def read(self, parser: ConfigParser, source: str) -> dict[str, Any]:
        """Values of a config.json. Raises: ModelLoadError: a value is damaged."""
        found = dict(self.fixed)
        for key in self.keys:
            text = parser.get(key.section, key.place, fallback="")
            value = key.missing if text in ABSENT else value_of(key.name, text, source)
            if value is not None and (text not in ABSENT or key.name not in found):
                found[key.name] = key.words.get(text, value)
        return found

    def places(self, parser: ConfigParser, section: str) -> dict[str, str]:
        """What config.ini calls the keys of config.json; those outside of `section` with theirs.

        Of several for one key, it is that which `read` takes, or the first, where there is none.
        """
        found: dict[str, str] = {}
        for key in self.keys:
            is_there = parser.get(key.section, key.place, fallback="") not in ABSENT
            if is_there or key.name not in found:
                found[key.name] = key.place if key.section == section else f"{key.place} of [{key.section}]"
        return found

    def write(self, config: HFConfig, spec: ModelSpec) -> Sections:
        """config.ini of a config.json."""
        sections: Sections = {}
        keys = (key for key in self.keys if key.section != "decoder" or spec.encoder is not None)
        for key in keys:
            value = key.default if config.raw(key.name) is None else config.raw(key.name)
            if value is not None:
                value = _PLAIN.get(value, value) if key.words else value
                sections.setdefault(key.section, {})[key.place] = _text(value)
        for section, values in self.more(config, spec).items():
            sections.setdefault(section, {}).update(values)
        return sections


_DISENTANGLED = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
TRANSLATIONS = {
    "t5": Translation(_T5, _t5_more),
    "bart": Translation((*_M2M, Key("mbart", "encoder")), _bart_more),
    "m2m": Translation(_M2M, _bart_more),
    "bert": Translation(_BERT, _encoder_more("bert", 1.0)),
    "deberta": Translation(_DEBERTA, _encoder_more("deberta", 3**0.5), _DISENTANGLED),
}
"""By class."""

ABSENT = ("", "None")
"""What converters wrote for what there is not."""
_FLAGS = frozenset({"t5_with_bias", "use_gated_activation", "mbart", "tie_word_embeddings", "legacy"})
_JSON = frozenset({"architectures", "id2label"})


def value_of(name: str, text: str, source: str) -> Any:
    """A number, flag, text or, where config.json has one, a list or object.

    Raises:
        ModelLoadError: a list or object that is none.
    """
    if name in _FLAGS:
        return ConfigParser.BOOLEAN_STATES.get(text.lower(), text)
    if name in _JSON:
        try:
            return json.loads(text)
        except ValueError as error:
            raise ModelLoadError(f"{source}: {name} is {text!r}; expected JSON") from error
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: Any) -> str:
    """Of several token ids the first."""
    if isinstance(value, list) and all(type(part) is int for part in value):
        value = next(iter(value), "")
    return json.dumps(value) if isinstance(value, list | dict) else str(value)
