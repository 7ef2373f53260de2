# SPDX-License-Identifier: BSD-3-Clause
"""The sets of tensors that clients speak; a model speaks the one whose inputs its config.pbtxt declares."""

from collections.abc import Mapping
from typing import Any

from ...errors import ModelLoadError
from ..call import Contract
from ..parameters import flag
from . import encoder_call
from .core import FASTERTRANSFORMER, CoreContract
from .encoder import EncoderContract
from .encoder_decoder import EncoderDecoderContract
from .interactive import InteractiveContract
from .tensorrt_llm import TENSORRT_LLM


def choose(model_config: Mapping[str, Any], parameters: Mapping[str, str]) -> Contract | InteractiveContract:
    """Raises: ModelLoadError: config.pbtxt declares no known set of tensors, or only a part of one."""
    names = {entry["name"] for entry in model_config["input"]}
    outputs = {entry["name"] for entry in model_config["output"]}
    if "sequence_batching" in model_config and "input_ids" not in names:
        raise ModelLoadError(
            f"config.pbtxt has sequence_batching and declares the inputs {sorted(names)}; it is allowed with"
            " input_ids (token ids)"
        )
    if "text_input" in names and "text_output" not in outputs:
        from .encoder_text import EncoderTextContract

        return EncoderTextContract.from_parameters(model_config, parameters)
    if outputs & {output.name for output in encoder_call.OUTPUTS}:
        return EncoderContract(model_config)
    if "text_input" in names:
        # Not above: it needs the tokenizers library, which token ids do not.
        from .text import TextContract

        return TextContract.from_parameters(model_config, parameters)
    if {"input_ids", "max_output_len"} <= names:
        return EncoderDecoderContract(model_config)
    if "input_ids" in names and "sequence_batching" in model_config:
        return InteractiveContract(model_config)
    if "input_ids" in names:
        sets = (FASTERTRANSFORMER, TENSORRT_LLM)
        closest = min(sets, key=lambda tensors: len(tensors.unknown(names)))
        return CoreContract(model_config, closest, flag(parameters, "exclude_input_in_output", False))
    raise ModelLoadError(
        f"config.pbtxt declares the inputs {sorted(names)}; allowed are those with input_ids (token ids)"
        " or with text_input (text)"
    )
