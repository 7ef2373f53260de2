# SPDX-License-Identifier: BSD-3-Clause
"""GPT-Neo: GPT-2 with unscaled scores and windows on some layers."""

from dataclasses import replace

from ..hf_config import HFConfig
from ..spec import ModelSpec
from .base import Family, windows
from .gpt2 import NAMES as GPT2_NAMES
from .gpt2 import gpt2

_ATTENTION = "transformer.h.{layer}.attn.attention"
NAMES = {role: name for role, name in GPT2_NAMES.items() if role != "qkv"} | {
    "q": f"{_ATTENTION}.q_proj",
    "k": f"{_ATTENTION}.k_proj",
    "v": f"{_ATTENTION}.v_proj",
    "output": f"{_ATTENTION}.out_proj",
}


def gpt_neo(config: HFConfig) -> ModelSpec:
    alternate = windows(config, config.integer("window_size", 256), lambda layer: layer % 2 == 1)
    return replace(gpt2(config), qkv_bias=False, attention_scale=1.0, windows=alternate)


GPT_NEO = Family(
    gpt_neo,
    NAMES,
    prefix="transformer.",
    config_names={
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "attention_layers": "layer_types",
    },
    ignored=(r"\.attn\.attention\.(masked_)?bias$",),
)
