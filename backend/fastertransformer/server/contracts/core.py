# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's decoder-only contract: token ids in, token ids out.

The GPT class counts the padded prompt into `sequence_length`, the llama class does not.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ... import validation
from ...errors import InvalidRequest
from ...messages import EngineInfo, Request, SamplingParams
from ...validation.values import check_tokens
from ..call import Row
from ..protocol import (
    Array,
    Input,
    Output,
    bias_lists,
    declared,
    first_row,
    needed,
    per_row,
    read_rows,
    require,
    single_ids,
    token_rows,
    word_lists,
)
from .core_call import OUTPUTS, CoreCall, Shape
from .prompts import Prompt, matrix_rows, packed_ids, read_prompt
from .samples import num_samples, seed_of

_LLAMA_CLASS = ("llama", "mistral", "fastertransformer-llama")
"""Checkpoints of the old service's model_type llama."""


INPUTS = (
    Input("input_ids", "TYPE_UINT32", (-1,), token_rows, "prompt", optional=False),
    Input("input_lengths", "TYPE_UINT32", (1,), per_row, "prompt_len", optional=False),
    Input("request_output_len", "TYPE_UINT32", (-1,), per_row, "max_tokens", optional=False),
    Input("runtime_top_k", "TYPE_UINT32", (1,), per_row, "top_k", 0),
    Input("runtime_top_p", "TYPE_FP32", (1,), per_row, "top_p", 0.0),
    Input("top_p_decay", "TYPE_FP32", (1,), per_row, "top_p_decay", 1.0),
    Input("top_p_min", "TYPE_FP32", (1,), per_row, "top_p_min", 1e-6),
    Input("top_p_reset_ids", "TYPE_UINT32", (1,), per_row, "top_p_reset_id", -1),
    Input("min_p", "TYPE_FP32", (1,), per_row, "min_p", 0.0),
    Input("temperature", "TYPE_FP32", (1,), per_row, "temperature", 1.0),
    Input("repetition_penalty", "TYPE_FP32", (1,), per_row, "repetition_penalty", 1.0),
    Input("presence_penalty", "TYPE_FP32", (1,), per_row, "presence_penalty", 0.0),
    Input("frequency_penalty", "TYPE_FP32", (1,), per_row, "frequency_penalty", 0.0),
    Input("min_length", "TYPE_INT32", (1,), per_row, "min_length", 0),
    Input("no_repeat_ngram_size", "TYPE_INT32", (1,), per_row, "no_repeat_ngram_size", 0),
    Input("logit_bias", "TYPE_FP32", (-1, 2), bias_lists, "logit_bias", ()),
    Input("num_return_sequences", "TYPE_INT32", (1,), first_row, "num_return_sequences", 1),
    Input("random_seed", "TYPE_UINT64", (1,), per_row, "seed", 0),
    Input("is_return_log_probs", "TYPE_BOOL", (1,), first_row, "logprobs", False),
    Input("start_id", "TYPE_UINT32", (1,), per_row, "start_id"),
    Input("end_id", "TYPE_UINT32", (1,), single_ids, "end_ids"),
    Input("stop_words_list", "TYPE_INT32", (2, -1), word_lists, "stop_words", ()),
    Input("bad_words_list", "TYPE_INT32", (2, -1), word_lists, "bad_words", ()),
    Input("beam_width", "TYPE_UINT32", (1,), first_row, "beam_width", 1),
    Input("len_penalty", "TYPE_FP32", (1,), per_row, "length_penalty", 0.0),
    Input("beam_search_diversity_rate", "TYPE_FP32", (1,), per_row, "diversity_rate", 0.0),
    Input("early_stopping", "TYPE_BOOL", (1,), per_row, "early_stopping", False),
    Input("memory_len", "TYPE_UINT32", (1,), per_row, "memory_len", 0),
    Input("is_return_context_embeddings", "TYPE_BOOL", (1,), first_row, "wants_context", False),
    Input("prompt_learning_task_name_ids", "TYPE_UINT32", (1,), per_row, "prompt_task"),
    Input("request_prompt_embedding", "TYPE_FP16", (-1, -1), matrix_rows, "prompt_embedding"),
    Input("request_prompt_lengths", "TYPE_UINT32", (1,), per_row, "prompt_rows"),
    Input("request_prompt_type", "TYPE_UINT32", (1,), per_row, "prompt_type"),
)
_SAMPLING = frozenset(SamplingParams.__struct_fields__)


@dataclass(frozen=True, slots=True)
class TokenTensors:
    """One set of names and types for token ids in and out."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output[CoreCall], ...]

    def unknown(self, names: Iterable[str]) -> set[str]:
        """Those of `names` that are no inputs of this set."""
        return set(names) - {tensor.name for tensor in self.inputs}


FASTERTRANSFORMER = TokenTensors(INPUTS, OUTPUTS)


class CoreContract:
    """Reads requests by a set of tensors. Raises ModelLoadError when config.pbtxt declares others.

    Args:
        exclude_input: what an absent `exclude_input_in_output` means.
    """

    def __init__(
        self,
        model_config: Mapping[str, Any],
        tensors: TokenTensors = FASTERTRANSFORMER,
        exclude_input: bool = False,
    ) -> None:
        inputs, outputs = model_config["input"], model_config["output"]
        self.input_types = declared(inputs, tensors.inputs)
        require(inputs, tensors.inputs)
        self._tensors = tensors
        self._names = {tensor.field: tensor.name for tensor in tensors.inputs if tensor.field}
        self._output_types = declared(outputs, tensors.outputs)
        self._decoupled = bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))
        self._exclude_input = exclude_input
        self._ids: Iterator[int] = itertools.count()

    def open(self, tensors: Mapping[str, Array], info: EngineInfo) -> CoreCall:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        ids = needed(tensors, "input_ids")
        values = read_rows(self._tensors.inputs, tensors, len(ids))
        samples = num_samples(values, info)
        rows: list[Row] = []
        visible: list[tuple[int, ...]] = []
        for row in values:
            ids_of_row = _ids(row)
            prompt = read_prompt(row, ids_of_row or (_start_id(row, info),), info)
            rows += [Row(self._request(row, prompt, sample, info)) for sample in range(samples)]
            visible += [prompt.visible if ids_of_row else ()] * samples
        pad_ids = [row.get("pad_id") for row in values for _ in range(samples)]
        fill_ids = [_fill_id(*pair, info) for pair in zip(pad_ids, rows, strict=True)]
        validation.check_logits([row.request for row in rows], info, self._names)
        return CoreCall(rows, visible, ids.shape[1], fill_ids, self._shape(values[0], info), samples)

    def _request(self, values: Mapping[str, Any], prompt: Prompt, sample: int, info: EngineInfo) -> Request:
        own = {key: value for key, value in values.items() if key in _SAMPLING}
        own["seed"] = seed_of(own["seed"], sample)
        request = Request(
            next(self._ids),
            packed_ids("input_ids", prompt.tokens, info.vocab_size),
            SamplingParams(**own, reports_beams=self._decoupled and values["beam_width"] > 1),
            memory_len=values.get("memory_len", 0),
            embeddings=prompt.embeddings,
            prompt_task=prompt.task,
            wants_context=values.get("wants_context", False) and sample == 0,
            wants_context_logits=values.get("wants_context_logits", False) and sample == 0,
            wants_logits=values.get("wants_logits", False),
        )
        validation.check(request, info, self._names)
        return request

    def _shape(self, values: Mapping[str, Any], info: EngineInfo) -> Shape:
        excludes = values.get("exclude_input")
        return Shape(
            self._tensors.outputs,
            self._output_types,
            streams=self._decoupled and values.get("streaming", True),
            counts_prompt=self._counts_prompt(info),
            includes_prompt=not (self._exclude_input if excludes is None else excludes),
            vocab_size=info.vocab_size,
            wants=frozenset(key for key, value in values.items() if key.startswith("return_") and value),
        )

    def _counts_prompt(self, info: EngineInfo) -> bool:
        """Of FasterTransformer's classes: what config.pbtxt declares decides, else the checkpoint."""
        if "input_sequence_lengths" not in self._output_types:
            return True
        return "response_input_lengths" in self._output_types and info.model_type not in _LLAMA_CLASS


def _fill_id(pad_id: int | None, row: Row, info: EngineInfo) -> int:
    """What follows the last token of a row."""
    end_ids = row.request.sampling.end_ids or info.end_ids or (0,)
    return int(end_ids[0] if pad_id is None else pad_id)


def _start_id(values: Mapping[str, Any], info: EngineInfo) -> int:
    """What an empty prompt starts from."""
    start_id = values.get("start_id")
    if start_id is None:
        return info.start_id
    check_tokens("start_id", (start_id,), info.vocab_size)
    return int(start_id)


def _ids(values: Mapping[str, Any]) -> tuple[int, ...]:
    ids, length = values["prompt"], values["prompt_len"]
    if not 0 <= length <= len(ids):
        raise InvalidRequest(f"input_lengths is {length}; allowed is [0, {len(ids)}], the width of input_ids")
    return tuple(ids[:length].tolist())
