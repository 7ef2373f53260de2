# SPDX-License-Identifier: BSD-3-Clause
"""The shape of a family: data, no behaviour; and what most config.json have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import ModelLoadError
from ..encoding.spec import EncodingSpec
from ..hf_config import REQUIRED, HFConfig
from ..spec import ModelSpec
from .layouts import Layout, stacked


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    `names` maps the roles that models.builder asks for to names in the checkpoint, without
    `.weight` and `.bias`; `{layer}` is the layer's number. A projection that a checkpoint stores
    fused has one role for the whole (`qkv`, `gate_up`) instead of one for each part.
    """

    spec: Callable[[HFConfig], ModelSpec]
    names: Mapping[str, str | tuple[str, ...]]
    """Several names: the first one that a checkpoint has."""
    encoder_names: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """The same for the encoder of an encoder-decoder, where `names` are the decoder's; else empty."""
    prefix: str = ""
    """Some checkpoints of this family lack it at the start of names."""
    config_names: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json, each with the name that `decoder` and most families have for it."""
    qkv_layout: Layout = stacked
    """Of the role `qkv`."""
    transposed: bool = False
    """Linear weights lie as [in, out]."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of tensors that inference does not need."""
    encoding: Callable[[HFConfig], EncodingSpec] | None = None
    """Of a family that encodes and does not generate."""


def decoder(config: HFConfig, **fields: Any) -> ModelSpec:
    """The sizes that a config.json states under their common names, completed by what `fields` say."""
    heads = fields.get("num_attention_heads") or config.integer("num_attention_heads")
    defaults = {"num_key_value_heads": heads, "head_dim": config.integer("hidden_size") // heads}
    missing = [name for name in _SIZES if name not in fields]
    sizes: dict[str, Any] = {name: config.integer(name, defaults.get(name, REQUIRED)) for name in missing}
    return ModelSpec(**sizes, **fields)


_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def activation(config: HFConfig, key: str, default: str) -> str:
    """The op's kind of what Hugging Face calls an activation."""
    return config.choice(key, _ACTIVATIONS, default)


_SLIDING = frozenset({"sliding_attention", "local"})


def windows(config: HFConfig, window: int, slides: Callable[[int], bool]) -> tuple[int, ...]:
    """`window` for every layer that layer_types names, 0 for the others.

    Args:
        slides: decides where the config has no layer_types.
    """
    layers = range(config.integer("num_hidden_layers"))
    kinds = config.texts("layer_types")
    if kinds and len(kinds) != len(layers):
        raise ModelLoadError(f"layer_types names {len(kinds)} layers, num_hidden_layers is {len(layers)}")
    has_window = [kind in _SLIDING for kind in kinds] or list(map(slides, layers))
    return tuple(window if slide else 0 for slide in has_window)


def every_layer(_: int) -> bool:
    """For `windows`."""
    return True
