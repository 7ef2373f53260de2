# SPDX-License-Identifier: BSD-3-Clause
"""The models around `fastertransformer` in an ensemble: they have no engine, and answer at once."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .service import StepService

_INPUTS = {"QUERY", "TOKENS_BATCH"}
"""What `preprocessing` and `postprocessing` take, and no other model."""


def open_step(model_config: Mapping[str, Any]) -> "StepService | None":
    """None: config.pbtxt declares the tensors of no such model. Raises: ModelLoadError."""
    if _INPUTS.isdisjoint(entry["name"] for entry in model_config["input"]):
        return None
    # Not above: it needs the tokenizers library, which token ids do not.
    from .service import StepService

    return StepService(model_config)
