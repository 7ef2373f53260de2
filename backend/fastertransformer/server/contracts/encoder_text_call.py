# SPDX-License-Identifier: BSD-3-Clause
"""State and output tensors of one text for an encoder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from ...errors import InvalidRequest
from ...messages import EngineInfo
from ..call import Row
from ..protocol import Array, Output, compute_outputs


@dataclass(frozen=True, slots=True)
class TextRow:
    """One text."""

    row: Row
    offsets: Sequence[tuple[int, int]]
    """Characters [begin, end) of every token; special ones have none."""


class EncoderTextCall:
    """B texts; what is by token is padded with zeros to the longest."""

    streams = False
    has_news = False

    def __init__(self, texts: Sequence[TextRow], output_types: Mapping[str, Any], info: EngineInfo) -> None:
        assert info.encoder is not None
        self.texts = texts
        self.rows = [text.row for text in texts]
        self.labels = info.encoder.labels
        self._model_outputs = info.encoder.outputs
        self._output_types = output_types

    def select(self, outputs: Sequence[str]) -> None:
        """Has computed what these tensors need, and nothing else.

        Raises:
            InvalidRequest: the model has no such head.
        """
        needed = [(name, NEEDS[name]) for name in outputs if name in NEEDS]
        for name, output in needed:
            if output not in self._model_outputs:
                raise InvalidRequest(
                    f"{name} is wanted, but this model has no {output}; it gives"
                    f" {', '.join(self._model_outputs)}"
                )
        wanted = tuple(dict.fromkeys(output for _, output in needed))
        for row in self.rows:
            row.request = msgspec.structs.replace(row.request, outputs=wanted)

    def advance(self) -> Sequence[int]:
        return ()

    def take_outputs(self) -> dict[str, Array]:
        return compute_outputs(OUTPUTS, self._output_types, self)

    def has(self, output: str) -> bool:
        return all(output in row.arrays for row in self.rows)

    def rows_of(self, output: str) -> Array:
        """[B, W]"""
        return np.stack([row.arrays[output] for row in self.rows])

    def padded(self, values: Sequence[Array]) -> Array:
        """[B, longest, ...] of B arrays that have a row for every token."""
        longest = max(map(len, values))
        array = np.zeros((len(values), longest, *values[0].shape[1:]), values[0].dtype)
        for to, row in zip(array, values, strict=True):
            to[: len(row)] = row
        return array

    def label(self, logits: Array) -> Array:
        """Names of the largest of [..., W], as bytes."""
        names = np.array([label.encode() for label in self.labels], np.object_)
        found: Array = names[logits.argmax(-1)]
        return found


def _if(
    output: str, compute: Callable[[EncoderTextCall], Array]
) -> Callable[[EncoderTextCall], Array | None]:
    return lambda call: compute(call) if call.has(output) else None


def _probabilities(call: EncoderTextCall) -> Array:
    """Softmax over classes; of a single class, the sigmoid."""
    logits = call.rows_of("logits").astype(np.float64)
    if logits.shape[1] == 1:
        return 1 / (1 + np.exp(-logits))
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)  # type: ignore[no-any-return]


def _token_logits(call: EncoderTextCall) -> Array:
    return call.padded([row.arrays["token_logits"] for row in call.rows])


def _token_labels(call: EncoderTextCall) -> Array:
    """Padding has no label."""
    found = [call.label(row.arrays["token_logits"]) for row in call.rows]
    array = np.full((len(found), max(map(len, found))), b"", np.object_)
    for to, labels in zip(array, found, strict=True):
        to[: len(labels)] = labels
    return array


OUTPUTS: tuple[Output[EncoderTextCall], ...] = (
    Output("embedding", "TYPE_FP32", (-1,), _if("embedding", lambda call: call.rows_of("embedding"))),
    Output("logits", "TYPE_FP32", (-1,), _if("logits", lambda call: call.rows_of("logits"))),
    Output("probabilities", "TYPE_FP32", (-1,), _if("logits", _probabilities)),
    Output(
        "label", "TYPE_STRING", (1,), _if("logits", lambda call: call.label(call.rows_of("logits"))[:, None])
    ),
    Output("token_logits", "TYPE_FP32", (-1, -1), _if("token_logits", _token_logits)),
    Output("token_labels", "TYPE_STRING", (-1,), _if("token_logits", _token_labels)),
    Output(
        "token_offsets",
        "TYPE_INT32",
        (-1, 2),
        lambda call: call.padded([np.array(text.offsets, np.int32) for text in call.texts]),
    ),
    Output(
        "num_input_tokens",
        "TYPE_INT32",
        (1,),
        lambda call: np.array([[row.request.num_tokens] for row in call.rows]),
    ),
)
NEEDS = {
    "embedding": "embedding",
    "logits": "logits",
    "probabilities": "logits",
    "label": "logits",
    "token_logits": "token_logits",
    "token_labels": "token_logits",
}
"""Tensor -> what the model must have for it."""
