# SPDX-License-Identifier: BSD-3-Clause
"""The classes of FasterTransformer's own checkpoints: specs, and names of the .bin files."""

from ...spec import ModelSpec
from ..base import Family
from .decoders import ACTIVATIONS, DECODERS, EXACT_GELU
from .encoder_decoders import BART, M2M, T5, T5_ENCODER, stored
from .encoders import BERT, DEBERTA

__all__ = ["ACTIVATIONS", "CLASSES", "EXACT_GELU", "PADDING", "PREFIX", "T5_ENCODER", "as_stored"]

CLASSES: dict[str, Family] = {
    **DECODERS,
    "t5": T5,
    "bart": BART,
    "m2m": M2M,
    "bert": BERT,
    "deberta": DEBERTA,
}
"""By the old service's name of the class."""

PREFIX = "fastertransformer-"
"""Of the class, in a checkpoint's model_type."""

PADDING = ".padding"
"""Behind the name of a position table: rows in front of it, which transformers has and the service does
not read."""


def as_stored(name: str, spec: ModelSpec) -> ModelSpec:
    """What the files of a class say of a model of transformers."""
    return stored(spec) if name in ("bart", "m2m") else spec
