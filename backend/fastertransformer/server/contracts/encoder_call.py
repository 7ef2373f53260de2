# SPDX-License-Identifier: BSD-3-Clause
"""State and output tensors of one request to an encoder: everything comes at once, when all rows are done."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ...errors import InvalidRequest
from ...messages import EngineInfo
from ..call import Row
from ..protocol import Array, Output, compute_outputs


class EncoderCall:
    """B rows, whose tokens are padded with zeros to `width`."""

    streams = False
    has_news = False

    def __init__(
        self,
        rows: Sequence[Row],
        width: int,
        output_types: Mapping[str, Any],
        info: EngineInfo,
        wants_attentions: bool,
    ) -> None:
        assert info.encoder is not None
        self.rows = rows
        self.width = width
        self.labels = info.encoder.labels
        self._model_outputs = info.encoder.outputs
        self._output_types = output_types
        self._wants_attentions = wants_attentions

    def select(self, outputs: Sequence[str]) -> None:
        """Has only these tensors computed.

        Raises:
            InvalidRequest: the model does not have one of them; names it and those that it has.
        """
        given = [name for name, output in MODEL_OUTPUTS.items() if output in self._model_outputs]
        for name in outputs:
            if name not in given:
                raise InvalidRequest(f"{name} is wanted; this model gives {', '.join(given)}")
        wanted = tuple(
            dict.fromkeys(
                MODEL_OUTPUTS[name] for name in outputs if name != ATTENTIONS or self._wants_attentions
            )
        )
        for row in self.rows:
            row.request = msgspec.structs.replace(row.request, outputs=wanted)

    def advance(self) -> Sequence[int]:
        return ()

    def take_outputs(self) -> dict[str, Array]:
        return compute_outputs(OUTPUTS, self._output_types, self)

    def attentions(self) -> Array | None:
        """[B, layers, heads, width, width], 0 behind a row's tokens; None where they were not asked for."""
        found = [
            row.arrays[output] for row in self.rows if (output := MODEL_OUTPUTS[ATTENTIONS]) in row.arrays
        ]
        if not found:
            return None
        padded = np.zeros((len(found), *found[0].shape[:2], self.width, self.width), np.float32)
        for to, values in zip(padded, found, strict=True):
            length = values.shape[-1]
            to[..., :length, :length] = values
        return padded

    def array(self, output: str, by_token: bool) -> Array | None:
        """[B, ...], or None where it was not asked for."""
        found = [row.arrays[output] for row in self.rows if output in row.arrays]
        if not found:
            return None
        if not by_token:
            return np.stack(found)
        padded = np.zeros((len(found), self.width, *found[0].shape[1:]), np.float32)
        for to, values in zip(padded, found, strict=True):
            to[: len(values)] = values
        return padded


def _output(name: str, output: str, by_token: bool) -> Output[EncoderCall]:
    compute: Callable[[EncoderCall], Array | None] = lambda call: call.array(output, by_token)  # noqa: E731
    return Output(name, "TYPE_FP32", (-1, -1) if by_token else (-1,), compute)


ATTENTIONS = "output_attentions"
"""Comes only where `is_return_attentions` asks for it."""
MODEL_OUTPUTS = {
    "output_hidden_state": "last_hidden_state",
    ATTENTIONS: "attentions",
    "pooled_output": "pooled_output",
    "embedding": "embedding",
    "logits": "logits",
    "token_logits": "token_logits",
    "span_logits": "span_logits",
    "vocabulary_logits": "vocabulary_logits",
    "next_sentence_logits": "next_sentence_logits",
}
"""Tensor -> what the model calls it."""
_BY_TOKEN = frozenset({"output_hidden_state", "token_logits", "span_logits", "vocabulary_logits"})
OUTPUTS = tuple(
    Output(name, "TYPE_FP32", (-1, -1, -1, -1), EncoderCall.attentions)
    if name == ATTENTIONS
    else _output(name, output, name in _BY_TOKEN)
    for name, output in MODEL_OUTPUTS.items()
)
