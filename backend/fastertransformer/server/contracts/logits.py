# SPDX-License-Identifier: BSD-3-Clause
"""Outputs of logits in TensorRT-LLM's contract: of the prompts, and of the tokens that a response has."""

from collections.abc import Sequence

import numpy as np

from ..protocol import Array
from .core_call import CoreCall


def context_logits(call: CoreCall) -> Array | None:
    """[B, longest prompt, V], where asked for; in the first response that has them all."""
    firsts = call.rows[:: len(call.rows) // call.batch]
    if not all(row.context_logits for row in firsts):
        return None
    return _stacked([row.context_logits for row in firsts], call.shape.vocab_size)


def generation_logits(call: CoreCall) -> Array | None:
    """[B, N, most new tokens of a sequence, V], where asked for; of a stream the new ones alone."""
    if not call.rows[0].request.wants_logits:
        return None
    begins = call.sent * call.shape.streams
    spans = zip(call.rows, begins, call.generated, strict=True)
    parts = [b"".join(row.logits[begin:end]) for row, begin, end in spans]
    stacked = _stacked(parts, call.shape.vocab_size)
    return stacked.reshape(call.batch, call.num_samples, *stacked.shape[1:])


def _stacked(parts: Sequence[bytes], width: int) -> Array:
    """[n, longest, width]; 0 behind the end of the shorter ones."""
    rows = [np.frombuffer(part, np.float32).reshape(-1, width) for part in parts]
    stacked = np.zeros((len(rows), max(map(len, rows)), width), np.float32)
    for line, row in zip(stacked, rows, strict=True):
        line[: len(row)] = row
    return stacked
