# SPDX-License-Identifier: BSD-3-Clause
"""Parameters of config.pbtxt that belong to the adapter; those of the engine are in `config`."""

import math
from collections.abc import Mapping
from typing import Any

from ..config import FLAGS
from ..errors import ModelLoadError


def read(model_config: Mapping[str, Any]) -> dict[str, str]:
    """Names and values; template slots that nobody filled (`${...}`) are absent."""
    entries = model_config.get("parameters", {})
    values = {key: entry["string_value"] for key, entry in entries.items()}
    return {key: value for key, value in values.items() if value and not value.startswith("${")}


def flag(parameters: Mapping[str, str], key: str, default: bool) -> bool:
    """Raises: ModelLoadError: neither true nor false."""
    text = parameters.get(key, str(default))
    if text.lower() not in FLAGS:
        raise ModelLoadError(f"parameter {key} is {text!r}; allowed are true and false")
    return FLAGS[text.lower()]


def seconds(parameters: Mapping[str, str], key: str, default: float) -> float:
    """Raises: ModelLoadError: not a number above zero."""
    text = parameters.get(key, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ModelLoadError(f"parameter {key} is {text!r}; allowed is a number of seconds above 0")
    return value
