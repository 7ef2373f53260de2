# SPDX-License-Identifier: BSD-3-Clause
"""What can be measured of a model: what it does with its input."""

from enum import Enum
from pathlib import Path

from ...models.checkpoint import open_checkpoint
from ...models.loader import family_of, read_spec
from ...models.spec import ModelSpec


class Kind(Enum):
    """What a model does with its input."""

    DECODER = "goes on with it"
    ENCODER_DECODER = "encodes it, and generates another text"
    ENCODER = "encodes it"


def read_model(path: Path, load_format: str, model_type: str = "") -> tuple[ModelSpec, Kind]:
    """Raises: ModelLoadError: no checkpoint, or none of a known family."""
    checkpoint = open_checkpoint(str(path), load_format)
    family = family_of(checkpoint, model_type)
    spec = read_spec(checkpoint, family)
    if family.encoding is not None:
        return spec, Kind.ENCODER
    return spec, Kind.DECODER if spec.encoder is None else Kind.ENCODER_DECODER
