# SPDX-License-Identifier: BSD-3-Clause
"""SmolLM3: LLaMA with layers that do not rotate, every fourth where the config names none."""

from dataclasses import replace

from ...errors import ModelLoadError
from ..hf_config import HFConfig
from ..spec import ModelSpec
from .base import windows
from .llama import LLAMA, llama


def smollm3(config: HFConfig) -> ModelSpec:
    spec = llama(config.completed(rope_theta=2_000_000.0, tie_word_embeddings=True))
    rotates = _rotates(config, spec.num_hidden_layers)
    ropes = tuple(spec.rope if turns else None for turns in rotates)
    return replace(spec, rope=None, ropes=ropes, windows=_windows(config, rotates))


def _rotates(config: HFConfig, num_layers: int) -> list[bool]:
    """Of every layer; no_rope_layers has a 1 for those that do rotate."""
    named, interval = config.integers("no_rope_layers"), config.integer("no_rope_layer_interval", 4)
    if named and len(named) != num_layers:
        raise ModelLoadError(f"no_rope_layers names {len(named)} layers, num_hidden_layers is {num_layers}")
    return [bool(turns) for turns in named] or [(layer + 1) % interval != 0 for layer in range(num_layers)]


def _windows(config: HFConfig, rotates: list[bool]) -> tuple[int, ...]:
    """Layers that layer_types names, else those that do not rotate."""
    if not (config.flag("use_sliding_window", False) and config.has("sliding_window")):
        return ()
    return windows(config, config.integer("sliding_window"), lambda layer: not rotates[layer])


SMOLLM3 = replace(LLAMA, spec=smollm3)
