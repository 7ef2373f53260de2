# SPDX-License-Identifier: BSD-3-Clause
"""Models: specs and families as data, checkpoints, and the transformer that they describe."""

from ..layers.attention import StepMetadata
from .loader import load
from .prompts import Prompts, load_prompts
from .transformer import Model

__all__ = ["Model", "Prompts", "StepMetadata", "load", "load_prompts"]
