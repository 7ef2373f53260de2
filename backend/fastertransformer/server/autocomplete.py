# SPDX-License-Identifier: BSD-3-Clause
"""Lets config.pbtxt leave the tensors of its contract out."""

from collections.abc import Sequence
from typing import Any

from .contracts import core, core_call, interactive
from .protocol import Input, Output


def complete(model_config: Any) -> Any:
    """Adds inputs and outputs where there are none; whatever is written in config.pbtxt stays as it is.

    Args:
        model_config: Triton's pb_utils.ModelConfig.
    """
    written = model_config.as_dict()
    is_interactive = "sequence_batching" in written
    inputs, outputs = _tables("tokenizer_dir" in written["parameters"], is_interactive)
    for tensor in () if written["input"] else inputs:
        model_config.add_input(_entry(tensor, is_interactive) | {"optional": tensor.optional})
    for output in () if written["output"] else outputs:
        model_config.add_output(_entry(output, is_interactive))
    return model_config


def _tables(is_text: bool, is_interactive: bool) -> tuple[Sequence[Input], Sequence[Output[Any]]]:
    if is_interactive:
        return (*core.INPUTS, *interactive.SESSION_INPUTS), core_call.GPT_OUTPUTS
    if not is_text:
        return core.INPUTS, core_call.GPT_OUTPUTS
    # Not above: they need the tokenizers library, which token ids do not.
    from .contracts import text, text_call

    return text.INPUTS, text_call.OUTPUTS


def _entry(tensor: Input | Output[Any], is_interactive: bool) -> dict[str, Any]:
    rows = [-1] if is_interactive else []
    return {"name": tensor.name, "data_type": tensor.data_type, "dims": [*rows, *tensor.dims]}
