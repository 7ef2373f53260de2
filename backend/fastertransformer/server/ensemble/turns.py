# SPDX-License-Identifier: BSD-3-Clause
"""The dimension of size 1 that tensors of conversations have in front."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import InvalidRequest
from ..protocol import Array


def has_turns(model_config: Mapping[str, Any], name: str, dims: int) -> bool:
    """Whether config.pbtxt declares the input with one more than the `dims` that it has without turns."""
    entry = next(entry for entry in model_config["input"] if entry["name"] == name)
    return len(entry["dims"]) > dims


def strip(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """[1, B, ...] -> [B, ...]"""
    for name, array in tensors.items():
        if array.ndim < 2 or 0 in array.shape[:2]:
            raise InvalidRequest(f"{name} has shape {list(array.shape)}; allowed is [1, batch, ...]")
    return {name: array[0] for name, array in tensors.items()}


def wrap(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """[B, ...] -> [1, B, ...]"""
    return {name: array[np.newaxis] for name, array in tensors.items()}
