# SPDX-License-Identifier: BSD-3-Clause
"""Model families as data: a spec made from a config.json, and where each weight lies in a checkpoint."""

from .base import Family
from .bloom import BLOOM
from .gpt2 import GPT2
from .gpt_neo import GPT_NEO
from .gpt_neox import GPT_NEOX
from .gptj import GPTJ
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3
from .opt import OPT

FAMILIES: dict[str, Family] = {
    "bloom": BLOOM,
    "gpt2": GPT2,
    "gpt_neo": GPT_NEO,
    "gpt_neox": GPT_NEOX,
    "gptj": GPTJ,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "opt": OPT,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
}
"""By the `model_type` of a Hugging Face config.json."""

SERVICE_NAMES: dict[str, frozenset[str]] = {
    "gpt": frozenset({"gpt2", "opt", "bloom"}),
    "gpt-j": frozenset({"gptj"}),
    "gpt-neox": frozenset({"gpt_neox"}),
    "llama": frozenset({"llama", "mistral"}),
}
"""The parameter model_type of the old service, in lower case, and the checkpoints that it stands for."""
