# SPDX-License-Identifier: BSD-3-Clause
"""State and output tensors of one request in the text contract: each response has what is new."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...messages import FinishReason
from ..call import Row
from ..detokenizer import Detokenizer
from ..protocol import Array, Output, compute_outputs
from ..stop_words import StopWords
from .tensorrt_llm import NOT_SENT, not_sent


@dataclass(slots=True)
class TextRow:
    """One row's way from tokens to text."""

    row: Row
    end_ids: Sequence[int]
    detokenizer: Detokenizer
    stop_words: StopWords
    text: str = ""
    """Not yet sent; begins with the prompt where that is wanted."""
    read: int = 0
    """Tokens that were turned into text."""
    sent: int = 0
    """Tokens that responses have covered."""

    def advance(self) -> bool:
        """Turns new tokens into text; True when a stop word was found in it."""
        last, was_found = self.row.finish_reason is not None, self.stop_words.found
        if not was_found:
            self._read(last)
        if self.stop_words.found:
            self.row.finish_reason = FinishReason.STOP
        return self.stop_words.found and not was_found and not last

    def _read(self, last: bool) -> None:
        """Up to the token that completes a stop word, however many came at once; beams are read whole."""
        tokens = self.row.tokens[self.read :]
        if tokens and tokens[-1] in self.end_ids and self.row.finish_reason is FinishReason.STOP:
            del tokens[-1]  # the end token is not text, even where the tokenizer can spell it
        is_one_by_one = self.stop_words.words and self.row.request.sampling.beam_width == 1
        step = 1 if is_one_by_one else max(len(tokens), 1)
        for first in range(0, len(tokens), step):
            self.text += self.stop_words.push(self.detokenizer.push(tokens[first : first + step]))
            if self.stop_words.found:
                self.read += first + step
                return
        self.read = len(self.row.tokens)
        if last:
            self.text += self.stop_words.push(self.detokenizer.push((), last), last)


@dataclass(slots=True)
class TextCall:
    """B rows of N samples, and W texts of a sample, one for each beam. Without a beam search W is 1."""

    rows: Sequence[Row]
    """What the engine computes: B * N."""
    beams: Sequence[Sequence[TextRow]]
    """[B * N][W]"""
    batch: int
    """B"""
    streams: bool
    output_types: Mapping[str, Any]
    wants: Mapping[str, bool]
    """`return_log_probs`, `return_num_input_tokens` and `return_num_output_tokens`."""
    texts: list[TextRow] = field(init=False)
    """All of them."""

    def __post_init__(self) -> None:
        self.texts = [text for texts in self.beams for text in texts]

    def advance(self) -> Sequence[int]:
        for row, texts in zip(self.rows, self.beams, strict=True):
            if row.request.sampling.beam_width > 1 and row.finish_reason is not None:
                _deal_out(row, texts)
        return [text.row.request.id for text in self.texts if text.advance()]

    @property
    def texts_of_rows(self) -> Sequence[Sequence[TextRow]]:
        """[B][N * W]"""
        count = len(self.texts) // self.batch
        return [self.texts[first : first + count] for first in range(0, len(self.texts), count)]

    @property
    def has_news(self) -> bool:
        return any(text.text for text in self.texts)

    def take_outputs(self) -> dict[str, Array]:
        outputs = compute_outputs(OUTPUTS, self.output_types, self)
        for text in self.texts:
            text.text, text.sent = "", text.read
        return outputs

    def new_logprobs(self) -> Array:
        """[B, N * W, most new tokens of a text], padded with 0."""
        new = [text.row.logprobs[text.sent : text.read] for text in self.texts]
        array = np.zeros((len(new), max(map(len, new))), np.float32)
        for line, logprobs in zip(array, new, strict=True):
            line[: len(logprobs)] = logprobs
        return array.reshape(self.batch, -1, array.shape[1])


def _deal_out(row: Row, texts: Sequence[TextRow]) -> None:
    """Gives every text its beam; what was not found stays empty."""
    for text in texts:
        text.row.finish_reason = row.finish_reason
    for text, beam in zip(texts, row.beams, strict=False):
        text.row.tokens, text.row.logprobs = list(beam.tokens), list(beam.logprobs)
        is_full = len(beam.tokens) == row.request.sampling.max_tokens
        text.row.finish_reason = FinishReason.LENGTH if is_full else FinishReason.STOP


def _per_row(compute: Callable[[Sequence[TextRow]], int]) -> Callable[[TextCall], Array]:
    """[B, 1]"""
    return lambda call: np.array([[compute(texts)] for texts in call.texts_of_rows])


def _per_text(compute: Callable[[TextRow], Any], dtype: Any = None) -> Callable[[TextCall], Array]:
    """[B, N * W]"""
    return lambda call: np.array([[compute(text) for text in texts] for texts in call.texts_of_rows], dtype)


def _strings(compute: Callable[[TextRow], str]) -> Callable[[TextCall], Array]:
    return _per_text(lambda text: compute(text).encode(), np.object_)


def _if(wish: str, compute: Callable[[TextCall], Array]) -> Callable[[TextCall], Array | None]:
    return lambda call: compute(call) if call.wants[wish] else None


def _finish_reason(text: TextRow) -> str:
    return text.row.finish_reason.value if text.row.finish_reason else ""


def _num_input_tokens(texts: Sequence[TextRow]) -> int:
    text = texts[0]
    return len(text.row.request.encoder_tokens or text.row.request.prompt)


def _cum_logprob(text: TextRow) -> float:
    return sum(text.row.logprobs[: text.read])


def _text_output(call: TextCall) -> Array:
    """[B, N * W]; for clients of TensorRT-LLM, which read [0], without a batch dimension."""
    array = _strings(lambda text: text.text)(call)
    return array.reshape(-1) if "batch_index" in call.output_types else array


OUTPUTS: tuple[Output[TextCall], ...] = (
    Output("text_output", "TYPE_STRING", (-1,), _text_output),
    Output("cum_log_probs", "TYPE_FP32", (-1,), _if("return_log_probs", _per_text(_cum_logprob))),
    Output("output_log_probs", "TYPE_FP32", (-1, -1), _if("return_log_probs", TextCall.new_logprobs)),
    Output(
        "num_input_tokens",
        "TYPE_INT32",
        (1,),
        _if("return_num_input_tokens", _per_row(_num_input_tokens)),
    ),
    Output(
        "num_output_tokens",
        "TYPE_INT32",
        (1,),
        _if("return_num_output_tokens", _per_row(lambda texts: sum(text.read - text.sent for text in texts))),
    ),
    Output("finish_reason", "TYPE_STRING", (-1,), _strings(_finish_reason)),
    Output("batch_index", "TYPE_INT32", (1,), lambda call: np.arange(call.batch)[:, None]),
    Output("sequence_index", "TYPE_INT32", (1,), _per_row(lambda _: 0)),
    *not_sent("context_logits", "TYPE_FP32", -1, -1),
    *not_sent("generation_logits", "TYPE_FP32", -1, -1, -1),
    *NOT_SENT,
)
