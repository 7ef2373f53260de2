# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's contract of T5, BART and M2M: token ids of the encoder in, those of the decoder out."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ... import validation
from ...errors import InvalidRequest
from ...messages import EngineInfo, Request, SamplingParams
from ..call import Row
from ..protocol import Array, Input, Output, declared, per_row, read_rows, refused, require, token_rows
from . import core, core_call
from .core_call import CoreCall, Shape

_OF_DECODERS = {
    "input_ids",
    "input_lengths",
    "request_output_len",
    "is_return_context_embeddings",
    "num_return_sequences",
    "memory_len",
    "prompt_learning_task_name_ids",
    "request_prompt_embedding",
    "request_prompt_lengths",
    "request_prompt_type",
}
"""What the decoder-only contract has and this one has not, or under another name."""

_OF_PROMPTS = ("input_sequence_lengths", "response_input_lengths", "context_embeddings")
"""Outputs about the prompt, which here is the encoder's."""

_NO_PROMPT_LEARNING = refused("prompt learning of encoder-decoders is not served yet")
INPUTS = (
    Input("input_ids", "TYPE_UINT32", (-1,), token_rows, "encoder_tokens", optional=False),
    Input("sequence_length", "TYPE_UINT32", (1,), per_row, "encoder_len", optional=False),
    Input("max_output_len", "TYPE_UINT32", (1,), per_row, "max_tokens", optional=False),
    Input("forced_bos_id", "TYPE_INT32", (1,), per_row, "forced_bos_id"),
    Input("prompt_learning_task_name_ids", "TYPE_UINT32", (1,), _NO_PROMPT_LEARNING),
    Input("request_prompt_embedding", "TYPE_FP16", (-1, -1), _NO_PROMPT_LEARNING),
    Input("request_prompt_lengths", "TYPE_UINT32", (1,), _NO_PROMPT_LEARNING),
    Input("ia3_tasks", "TYPE_INT32", (1,), refused("the model has no IA3 adapters")),
    *(tensor for tensor in core.INPUTS if tensor.name not in _OF_DECODERS),
)
NAMES = {tensor.field: tensor.name for tensor in INPUTS if tensor.field} | {
    "prompt": "start_id",
    "forced_tokens": "forced_bos_id",
}
_SAMPLING = frozenset(SamplingParams.__struct_fields__)


def _input_lengths(call: CoreCall) -> Array:
    """[B, W]"""
    lengths = [[len(row.request.encoder_tokens)] for row in call.rows]
    return np.repeat(lengths, call.num_samples, axis=1)


OUTPUTS: tuple[Output[CoreCall], ...] = (
    *(
        replace(output, data_type=output.data_type.replace("UINT", "INT"))
        for output in core_call.OUTPUTS
        if output.name not in _OF_PROMPTS
    ),
    Output("input_sequence_lengths", "TYPE_INT32", (-1,), _input_lengths),
)


class EncoderDecoderContract:
    """Reads requests by INPUTS. Raises ModelLoadError when config.pbtxt declares other tensors."""

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        self.input_types = declared(model_config["input"], INPUTS)
        require(model_config["input"], INPUTS)
        self._output_types = declared(model_config["output"], OUTPUTS)
        self._streams = bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))
        self._ids: Iterator[int] = itertools.count()

    def open(self, tensors: Mapping[str, Array], info: EngineInfo) -> CoreCall:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        values = read_rows(INPUTS, tensors, len(tensors["input_ids"]))
        rows = [Row(self._request(row, info)) for row in values]
        end_ids = [row.request.sampling.end_ids or info.end_ids or (0,) for row in rows]
        shape = Shape(OUTPUTS, self._output_types, self._streams)
        return CoreCall(rows, [()] * len(rows), 0, [ends[0] for ends in end_ids], shape)

    def _request(self, values: Mapping[str, Any], info: EngineInfo) -> Request:
        start_id = info.start_id if values["start_id"] is None else values["start_id"]
        sampling = SamplingParams(
            **{key: value for key, value in values.items() if key in _SAMPLING},
            reports_beams=self._streams and values["beam_width"] > 1,
        )
        request = Request(
            next(self._ids),
            (start_id,),
            sampling,
            encoder_tokens=_encoder_tokens(values),
            forced_tokens=_forced_tokens(values, info),
        )
        validation.check(request, info, NAMES)
        return request


def _encoder_tokens(values: Mapping[str, Any]) -> tuple[int, ...]:
    ids, length = values["encoder_tokens"], values["encoder_len"]
    if not 0 <= length <= len(ids):
        raise InvalidRequest(
            f"sequence_length is {length}; allowed is [0, {len(ids)}], the width of input_ids"
        )
    return tuple(ids[:length].tolist())


def _forced_tokens(values: Mapping[str, Any], info: EngineInfo) -> tuple[int, ...]:
    """What the client says, -1 for nothing; else what the checkpoint says."""
    forced = values["forced_bos_id"]
    if forced is None:
        return info.forced_ids
    return () if forced == -1 else (forced,)
