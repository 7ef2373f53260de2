# SPDX-License-Identifier: BSD-3-Clause
"""Models: specs and families as data, checkpoints, and the transformer that they describe."""

from ..layers.attention import CrossMetadata, StepMetadata
from ..layers.encoder_attention import AttentionMaps, EncoderMetadata
from .encoding.model import ATTENTIONS, EncoderModel
from .loader import encodes, encoding_outputs, load
from .prompts import Prompts, load_prompts
from .transformer import Model

__all__ = [
    "ATTENTIONS",
    "AttentionMaps",
    "CrossMetadata",
    "EncoderMetadata",
    "EncoderModel",
    "Model",
    "Prompts",
    "StepMetadata",
    "encodes",
    "encoding_outputs",
    "load",
    "load_prompts",
]
