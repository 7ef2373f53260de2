# SPDX-License-Identifier: BSD-3-Clause
"""Model families as data: a spec made from a config.json, and where each weight lies in a checkpoint."""

from .base import Family
from .gpt2 import GPT2
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3

FAMILIES: dict[str, Family] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
}
"""By the `model_type` of a Hugging Face config.json."""

SERVICE_NAMES: dict[str, frozenset[str]] = {
    "gpt": frozenset({"gpt2"}),
    "llama": frozenset({"llama", "mistral"}),
}
"""The parameter model_type of the old service, in lower case, and the checkpoints that it stands for."""
