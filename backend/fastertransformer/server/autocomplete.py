# SPDX-License-Identifier: BSD-3-Clause
"""Lets config.pbtxt leave the tensors of its contract out."""

from collections.abc import Sequence
from typing import Any

from .contracts import core, core_call
from .protocol import Input, Output


def complete(model_config: Any) -> Any:
    """Adds inputs and outputs where there are none; whatever is written in config.pbtxt stays as it is.

    Args:
        model_config: Triton's pb_utils.ModelConfig.
    """
    written = model_config.as_dict()
    inputs, outputs = _tables("tokenizer_dir" in written["parameters"])
    for tensor in () if written["input"] else inputs:
        model_config.add_input(_entry(tensor) | {"optional": tensor.optional})
    for output in () if written["output"] else outputs:
        model_config.add_output(_entry(output))
    return model_config


def _tables(is_text: bool) -> tuple[Sequence[Input], Sequence[Output[Any]]]:
    if not is_text:
        return core.INPUTS, core_call.OUTPUTS
    # Not above: they need the tokenizers library, which token ids do not.
    from .contracts import text, text_call

    return text.INPUTS, text_call.OUTPUTS


def _entry(tensor: Input | Output[Any]) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": tensor.data_type, "dims": list(tensor.dims)}
