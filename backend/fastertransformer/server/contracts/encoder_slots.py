# SPDX-License-Identifier: BSD-3-Clause
"""Which output tensors of the templates in model_repository/encoder/ a checkpoint has."""

from collections.abc import Collection, Sequence
from typing import Any

from ..protocol import Output
from ..repository import Tensor
from . import encoder_call, encoder_text_call

_CLASSIFY = ("label", "probabilities", "logits", "token_labels", "token_logits", "token_offsets")


def output_slots(model_outputs: Collection[str]) -> dict[str, list[Tensor]]:
    """Values of the slots OUTPUTS and CLASSES; the latter is missing where the model has no classes."""
    tensors = [
        tensor for tensor in encoder_call.OUTPUTS if encoder_call.MODEL_OUTPUTS[tensor.name] in model_outputs
    ]
    classes = [
        tensor
        for tensor in encoder_text_call.OUTPUTS
        if tensor.name in _CLASSIFY
        and encoder_text_call.NEEDS.get(tensor.name, "token_logits") in model_outputs
    ]
    slots = {"OUTPUTS": _entries(tensors)}
    return {**slots, "CLASSES": _entries(classes)} if classes else slots


def _entries(tensors: Sequence[Output[Any]]) -> list[Tensor]:
    return [(tensor.name, tensor.data_type, tensor.dims) for tensor in tensors]
