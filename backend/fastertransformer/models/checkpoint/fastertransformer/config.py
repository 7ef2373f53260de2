# SPDX-License-Identifier: BSD-3-Clause
"""config.ini of FasterTransformer's checkpoints: where it lies, what it says, how a spec becomes one."""

import configparser
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ....errors import ModelLoadError
from ....layers.position import LinearScaling
from ...data_types import DTYPES
from ...families.fastertransformer import ACTIVATIONS, CLASSES, EXACT_GELU
from ...hf_config import HFConfig
from ...spec import ModelSpec, Positions, Residual
from .translation import ABSENT, TRANSLATIONS, Sections

FILE = "config.ini"

HUGGING_FACE = {
    "gpt2": "gpt",
    "opt": "gpt",
    "bloom": "gpt",
    "gptj": "gptj",
    "gpt_neox": "gptneox",
    "llama": "llama",
    "t5": "t5",
    "mt5": "t5",
    "bart": "bart",
    "mbart": "bart",
    "m2m_100": "m2m",
    "bert": "bert",
    "deberta-v2": "deberta",
}
"""The class for the model_type of a config.json."""

_FLAGS = (
    "has_adapters",
    "has_positional_encoding",
    "has_pre_decoder_layernorm",
    "has_post_decoder_layernorm",
    "use_attention_linear_bias",
    "use_gptj_residual",
    "tie_word_embeddings",
)


def find_folder(place: Path) -> Path | None:
    """The folder of the .bin files: `place`, or the `<n>-gpu` in it with the smallest n."""
    split = [(int(match[1]), folder) for folder in _folders(place) if (match := _SPLIT.match(folder.name))]
    candidates = [place, *(folder for _, folder in sorted(split))]
    return next((folder for folder in candidates if _is_checkpoint(folder)), None)


_SPLIT = re.compile(r"(\d+)-gpu$")


def _folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()] if place.is_dir() else []


def holds_weights(folder: Path) -> bool:
    """Whether there is more of a model than prompts of its tasks."""
    found = (*folder.glob("model.wte*.bin"), *folder.glob("*.0.bin"))
    return any(not path.name.startswith("model.prefix_prompt.") for path in found)


def _is_checkpoint(folder: Path) -> bool:
    return folder.is_dir() and ((folder / FILE).is_file() or any(folder.glob("model.wte*.bin")))


def read_ini(folder: Path) -> configparser.ConfigParser:
    """Raises: ModelLoadError: config.ini cannot be read or is none."""
    path, parser = (
        folder / FILE,
        configparser.ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=";"),
    )
    try:
        parser.read_string(path.read_text())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path} is damaged: {error}") from error
    return parser


def class_of(parser: configparser.ConfigParser, folder: Path) -> str:
    """The class that config.ini describes. Raises: ModelLoadError: none, or more than one."""
    found = [name for name in parser.sections() if name in CLASSES]
    if _ENCODER in parser and not found:
        has_buckets = any("relative_attention_num_buckets" in key for key in parser[_ENCODER])
        is_bart = (folder / "decoder.final_logits_bias.bin").exists()
        return "t5" if has_buckets else "bart" if is_bart else "m2m"
    if len(found) != 1:
        named = ", ".join(parser.sections()) or "none"
        known = (*(name for name in CLASSES if name not in TWO_STACKS), _ENCODER)
        raise ModelLoadError(
            f"{folder / FILE} has the sections {named}; expected one of "
            f"{', '.join(f'[{name}]' for name in known)}"
        )
    return found[0]


_ENCODER = "encoder"
TWO_STACKS = ("t5", "bart", "m2m")
"""Classes that have a section for each stack instead of one of their own name."""


def section_of(name: str) -> str:
    """The section that says most of a class."""
    return _ENCODER if name in TWO_STACKS else name


def section_values(parser: configparser.ConfigParser, section: str, path: Path) -> HFConfig:
    """The values of a section as numbers, flags and texts."""
    return HFConfig(typed(parser[section]), f"{path} [{section}]")


def typed(texts: Mapping[str, str]) -> dict[str, Any]:
    """Numbers, flags and texts of what stands in a config.ini."""
    return {key: _value(key, text) for key, text in texts.items() if text not in ABSENT}


def file_type(config: HFConfig) -> torch.dtype:
    """Raises: ModelLoadError: weight_data_type is unknown; lists those that are known."""
    return DTYPES[config.choice("weight_data_type", {name: name for name in DTYPES}, "fp32")]


def _value(key: str, text: str) -> Any:
    if key in _FLAGS:
        return configparser.ConfigParser.BOOLEAN_STATES.get(text.lower(), text)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def class_for(model_type: str, source: str) -> str:
    """The class for a Hugging Face family. Raises: ModelLoadError: none holds it."""
    if model_type not in HUGGING_FACE:
        raise ModelLoadError(
            f"{source} is a {model_type!r}; FasterTransformer's files hold {', '.join(HUGGING_FACE)}"
        )
    return HUGGING_FACE[model_type]


def ini_of(name: str, config: HFConfig, spec: ModelSpec) -> Sections:
    """What config.ini says of a model, as far as the format can; keys that the class leaves out are harmless.

    Args:
        name: of the class. config: its config.json. spec: what that is read as.
    """
    if name in TRANSLATIONS:
        return TRANSLATIONS[name].write(config, spec)
    return {name: {key: str(describe(spec)) for key, describe in _KEYS[name].items()}}


def read_values(name: str, parser: configparser.ConfigParser, source: str) -> dict[str, Any]:
    """What config.ini says of a model: a decoder's own words, else those of config.json."""
    if name in TRANSLATIONS:
        return TRANSLATIONS[name].read(parser, source)
    return typed(parser[name])


def _activation(spec: ModelSpec) -> str:
    known = {kind: name for name, kind in (ACTIVATIONS | EXACT_GELU).items() if name[0].isupper()}
    return known.get(spec.activation, spec.activation)


def _theta(spec: ModelSpec) -> float:
    return spec.rope.theta if spec.rope else 0.0


def _rotary_dim(spec: ModelSpec) -> int:
    return spec.rope.rotary_dim if spec.rope else 0


def _scaling(spec: ModelSpec) -> float:
    scaling = spec.rope.scaling if spec.rope else None
    return scaling.factor if isinstance(scaling, LinearScaling) else 1.0


_Describe = Callable[[ModelSpec], Any]
_SIZES: dict[str, _Describe] = {
    "head_num": lambda spec: spec.num_attention_heads,
    "size_per_head": lambda spec: spec.head_dim,
    "inter_size": lambda spec: spec.intermediate_size,
    "num_layer": lambda spec: spec.num_hidden_layers,
    "vocab_size": lambda spec: spec.vocab_size,
    "max_pos_seq_len": lambda spec: spec.max_position_embeddings,
    "layernorm_eps": lambda spec: spec.norm_eps,
    "activation_type": _activation,
}
_ROPE: dict[str, _Describe] = {
    "rotary_embedding": _rotary_dim,
    "rope_theta": _theta,
    "rope_scaling_factor": _scaling,
}
_KEYS: dict[str, dict[str, _Describe]] = {
    "gpt": {
        **_SIZES,
        "layernorm_type": lambda spec: (
            "post_layernorm" if spec.residual is Residual.POST else "pre_layernorm"
        ),
        "has_positional_encoding": lambda spec: int(spec.positions is not Positions.NONE),
        "has_pre_decoder_layernorm": lambda spec: int(spec.embedding_norm),
        "has_post_decoder_layernorm": lambda spec: int(spec.final_norm),
        "use_attention_linear_bias": lambda spec: int(bool(spec.alibi_slopes)),
    },
    "gptj": {**_SIZES, **_ROPE},
    "gptneox": {
        **_SIZES,
        **_ROPE,
        "use_gptj_residual": lambda spec: int(spec.residual is Residual.PARALLEL),
    },
    "llama": {**_SIZES, **_ROPE, "kv_head_num": lambda spec: spec.num_key_value_heads},
}
