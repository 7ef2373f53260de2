# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's contract of T5, BART and M2M: token ids of the encoder in, those of the decoder out."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ... import validation
from ...errors import InvalidRequest
from ...messages import EngineInfo, PromptKind, Request, SamplingParams
from ..call import Row
from ..protocol import Array, Input, Output, declared, needed, per_row, read_rows, require, token_rows
from . import core, core_call
from .core_call import CoreCall, Shape
from .prompts import Prompt, packed_ids, read_prompt
from .samples import num_samples, seed_of

_OF_DECODERS = {
    "input_ids",
    "input_lengths",
    "request_output_len",
    "is_return_context_embeddings",
    "memory_len",
    "request_prompt_type",
}
"""What the decoder-only contract has and this one has not, or under another name."""

_OF_PROMPTS = ("input_sequence_lengths", "response_input_lengths", "context_embeddings")
"""Outputs about the prompt, which here is the encoder's."""

INPUTS = (
    Input("input_ids", "TYPE_UINT32", (-1,), token_rows, "encoder_tokens", optional=False),
    Input("sequence_length", "TYPE_UINT32", (1,), per_row, "encoder_len", optional=False),
    Input("max_output_len", "TYPE_UINT32", (1,), per_row, "max_tokens", optional=False),
    Input("forced_bos_id", "TYPE_INT32", (1,), per_row, "forced_bos_id"),
    Input("ia3_tasks", "TYPE_INT32", (1,), per_row, "ia3_task"),
    *(tensor for tensor in core.INPUTS if tensor.name not in _OF_DECODERS),
)
NAMES = {tensor.field: tensor.name for tensor in INPUTS if tensor.field} | {
    "prompt": "start_id",
    "forced_tokens": "forced_bos_id",
}
_SAMPLING = frozenset(SamplingParams.__struct_fields__)


def _input_lengths(call: CoreCall) -> Array:
    """[B, W] without what prompt learning puts there."""
    lengths = [sum(token >= 0 for token in row.request.encoder_tokens) for row in call.rows]
    return np.repeat(lengths, call.num_samples * call.batch // len(call.rows)).reshape(call.batch, -1)


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
        values = read_rows(INPUTS, tensors, len(needed(tensors, "input_ids")))
        samples = num_samples(values, info)
        rows = [Row(self._request(row, sample, info)) for row in values for sample in range(samples)]
        end_ids = [row.request.sampling.end_ids or info.end_ids or (0,) for row in rows]
        shape = Shape(OUTPUTS, self._output_types, self._streams)
        return CoreCall(rows, [()] * len(rows), 0, [ends[0] for ends in end_ids], shape, samples)

    def _request(self, values: Mapping[str, Any], sample: int, info: EngineInfo) -> Request:
        start_id = info.start_id if values["start_id"] is None else values["start_id"]
        prompt = _encoder_prompt(values, info)
        own = {key: value for key, value in values.items() if key in _SAMPLING}
        own["seed"] = seed_of(own["seed"], sample)
        sampling = SamplingParams(**own, reports_beams=self._streams and values["beam_width"] > 1)
        request = Request(
            next(self._ids),
            packed_ids("start_id", (start_id,), info.vocab_size),
            sampling,
            encoder_tokens=packed_ids("input_ids", prompt.tokens, info.encoder_vocab_size),
            embeddings=prompt.embeddings,
            prompt_task=prompt.task,
            ia3_task=values["ia3_task"],
            forced_tokens=_forced_tokens(values, info),
        )
        validation.check(request, info, NAMES)
        return request


def _encoder_prompt(values: Mapping[str, Any], info: EngineInfo) -> Prompt:
    """What the encoder reads; a request's embeddings are a soft prompt, as they always were here."""
    ids, length = values["encoder_tokens"], values["encoder_len"]
    if not 0 <= length <= len(ids):
        raise InvalidRequest(
            f"sequence_length is {length}; allowed is [0, {len(ids)}], the width of input_ids"
        )
    sent = (values["prompt_embedding"], values["prompt_rows"])
    kind = None if all(value is None for value in sent) else PromptKind.SOFT.value
    return read_prompt({**values, "prompt_type": kind}, tuple(ids[:length].tolist()), info)


def _forced_tokens(values: Mapping[str, Any], info: EngineInfo) -> tuple[int, ...]:
    """What the client says, -1 for nothing; else what the checkpoint says."""
    forced = values["forced_bos_id"]
    if forced is None:
        return info.forced_ids
    return () if forced == -1 else (forced,)
