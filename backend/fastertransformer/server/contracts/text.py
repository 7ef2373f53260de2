# SPDX-License-Identifier: BSD-3-Clause
"""The text contract of TensorRT-LLM's `ensemble` and `tensorrt_llm_bls` models: text in, text out.

It is what HTTP `generate`, `generate_stream` and Triton's OpenAI frontend send. With `stream` a
response holds the text since the last one; without, there is one response with all of it.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from ... import validation
from ...messages import EngineInfo, Request, SamplingParams, token_ids
from ..call import Row
from ..detokenizer import Detokenizer
from ..parameters import flag
from ..protocol import (
    Array,
    Input,
    bias_lists,
    declared,
    first_row,
    needed,
    per_row,
    read_rows,
    require,
    single_ids,
)
from ..stop_words import StopWords, stop_word_rows
from ..texts import texts, word_rows, word_texts
from ..tokenizer import TextTokenizer
from . import bias_words, unserved
from .samples import num_samples, seed_of
from .text_call import OUTPUTS, TextCall, TextRow

INPUTS = (
    Input("text_input", "TYPE_STRING", (1,), texts, "text", optional=False),
    Input("max_tokens", "TYPE_INT32", (1,), per_row, "max_tokens", 16),
    Input("bad_words", "TYPE_STRING", (-1,), word_texts, "bad_texts", ()),
    Input("stop_words", "TYPE_STRING", (-1,), stop_word_rows, "stop_texts", ()),
    Input("exclude_input_in_output", "TYPE_BOOL", (1,), per_row, "exclude_input"),
    Input("end_id", "TYPE_INT32", (1,), single_ids, "end_ids"),
    Input("pad_id", "TYPE_INT32", (1,), per_row),  # text is not padded
    Input("top_k", "TYPE_INT32", (1,), per_row, "top_k", 0),
    Input("top_p", "TYPE_FP32", (1,), per_row, "top_p", 0.0),
    Input("top_p_decay", "TYPE_FP32", (1,), per_row, "top_p_decay", 1.0),
    Input("top_p_min", "TYPE_FP32", (1,), per_row, "top_p_min", 1e-6),
    Input("top_p_reset_ids", "TYPE_INT32", (1,), per_row, "top_p_reset_id", -1),
    Input("min_p", "TYPE_FP32", (1,), per_row, "min_p", 0.0),
    Input("temperature", "TYPE_FP32", (1,), per_row, "temperature", 1.0),
    Input("repetition_penalty", "TYPE_FP32", (1,), per_row, "repetition_penalty", 1.0),
    Input("presence_penalty", "TYPE_FP32", (1,), per_row, "presence_penalty", 0.0),
    Input("frequency_penalty", "TYPE_FP32", (1,), per_row, "frequency_penalty", 0.0),
    Input("no_repeat_ngram_size", "TYPE_INT32", (1,), per_row, "no_repeat_ngram_size", 0),
    Input("logit_bias", "TYPE_FP32", (-1, 2), bias_lists, "logit_bias", ()),
    Input("length_penalty", "TYPE_FP32", (1,), per_row, "length_penalty", 0.0),
    Input("early_stopping", "TYPE_BOOL", (1,), per_row, "early_stopping", False),
    Input("min_tokens", "TYPE_INT32", (1,), per_row, "min_length", 0),
    Input("seed", "TYPE_UINT64", (1,), per_row, "seed", 0),
    Input("beam_width", "TYPE_INT32", (1,), first_row, "beam_width", 1),
    Input("num_return_sequences", "TYPE_INT32", (1,), first_row, "num_return_sequences", 1),
    Input("stream", "TYPE_BOOL", (1,), first_row, "stream", False),
    Input("return_log_probs", "TYPE_BOOL", (1,), first_row, "return_log_probs", False),
    Input("return_num_input_tokens", "TYPE_BOOL", (1,), first_row, "return_num_input_tokens", False),
    Input("return_num_output_tokens", "TYPE_BOOL", (1,), first_row, "return_num_output_tokens", False),
    Input("embedding_bias_words", "TYPE_STRING", (-1,), word_rows, "bias_words", ()),
    Input("embedding_bias_weights", "TYPE_FP32", (-1,), bias_words.weight_rows, "bias_weights", ()),
    *unserved.TEXT,
)
NAMES = {tensor.field: tensor.name for tensor in INPUTS if tensor.field} | {
    "prompt": "text_input",
    "encoder_tokens": "text_input",
}
_SAMPLING = frozenset(SamplingParams.__struct_fields__)


class TextContract:
    """Reads requests by INPUTS. Raises ModelLoadError when config.pbtxt declares other tensors.

    Args:
        exclude_input: what an absent `exclude_input_in_output` means.
    """

    def __init__(
        self, model_config: Mapping[str, Any], tokenizer: TextTokenizer, exclude_input: bool
    ) -> None:
        self.input_types = declared(model_config["input"], INPUTS)
        require(model_config["input"], INPUTS)
        self._output_types = declared(model_config["output"], OUTPUTS)
        self._decoupled = bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))
        self._tokenizer = tokenizer
        self._exclude_input = exclude_input
        self._ids: Iterator[int] = itertools.count()

    @classmethod
    def from_parameters(
        cls, model_config: Mapping[str, Any], parameters: Mapping[str, str]
    ) -> "TextContract":
        """Reads tokenizer_dir, add_special_tokens, skip_special_tokens and exclude_input_in_output."""
        tokenizer = TextTokenizer(
            parameters.get("tokenizer_dir", ""),
            flag(parameters, "add_special_tokens", True),
            flag(parameters, "skip_special_tokens", True),
        )
        return cls(model_config, tokenizer, flag(parameters, "exclude_input_in_output", False))

    def open(self, tensors: Mapping[str, Array], info: EngineInfo) -> TextCall:
        """Raises: InvalidRequest: names the tensor, what came and what is allowed."""
        values = read_rows(INPUTS, tensors, len(needed(tensors, "text_input")))
        samples = range(num_samples(values, info))
        sampled = [row | {"seed": seed_of(row["seed"], sample)} for row in values for sample in samples]
        rows = [Row(self._request(row, info)) for row in sampled]
        texts = [self._texts(*pair, info) for pair in zip(rows, sampled, strict=True)]
        wants = {key: values[0][key] for key in values[0] if key.startswith("return_")}
        streams = self._decoupled and values[0]["stream"] and values[0]["beam_width"] == 1
        return TextCall(rows, texts, len(values), streams, self._output_types, wants)

    def _texts(self, row: Row, values: Mapping[str, Any], info: EngineInfo) -> list[TextRow]:
        width = row.request.sampling.beam_width
        beams = [row] if width == 1 else [Row(row.request) for _ in range(width)]
        return [self._text(beam, values, info) for beam in beams]

    def _text(self, row: Row, values: Mapping[str, Any], info: EngineInfo) -> TextRow:
        request = row.request
        excludes = self._exclude_input if values["exclude_input"] is None else values["exclude_input"]
        excludes = excludes or info.max_encoder_len > 0  # the output does not go on from the input
        return TextRow(
            row,
            request.sampling.end_ids or info.end_ids,
            Detokenizer(self._tokenizer.decode, request.prompt),
            StopWords(values["stop_texts"]),
            "" if excludes else values["text"],
        )

    def _request(self, values: Mapping[str, Any], info: EngineInfo) -> Request:
        own = {key: value for key, value in values.items() if key in _SAMPLING}
        sampling = SamplingParams(
            **own | {"logit_bias": self._biases(values)},
            logprobs=values["return_log_probs"],
            bad_words=tuple(ids for word in values["bad_texts"] for ids in self._tokenizer.word(word)),
        )
        text = self._tokenizer.encode(values["text"])
        if info.max_encoder_len:
            start, given = token_ids((info.start_id,)), token_ids(text)
            request = Request(
                next(self._ids), start, sampling, encoder_tokens=given, forced_tokens=info.forced_ids
            )
        else:
            request = Request(next(self._ids), token_ids(text or (info.start_id,)), sampling)
        validation.check(request, info, NAMES)
        return request

    def _biases(self, values: Mapping[str, Any]) -> bias_words.Biases:
        pairs = bias_words.pair(values["bias_words"], values["bias_weights"])
        words = ((self._tokenizer.ids(word), weight) for word, weight in pairs)
        return bias_words.add(values["logit_bias"], words)
