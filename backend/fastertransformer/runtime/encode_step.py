# SPDX-License-Identifier: BSD-3-Clause
"""The step plan of an encoder as the device reads it: every array in one buffer, copied once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..engine.batch import Int32Array
from ..engine.encode_batch import EncodeBatch
from ..models import ATTENTIONS, AttentionMaps, EncoderMetadata
from .transfer import filled


@dataclass(frozen=True, slots=True)
class EncodeStep:
    """T tokens; tensors int32 on the device."""

    metadata: EncoderMetadata
    tokens: Tensor | None
    """[T]"""
    token_types: Tensor | None
    """[T]; None: all 0"""


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Where the arrays of a step lie: first where sequences begin, then row by row what every token has.

    A batch that is smaller is filled up with sequences that have no tokens, and with tokens that belong to no
    sequence, of id, type, task and position 0.
    """

    num_sequences: int
    num_tokens: int
    max_seqlen: int
    """What kernels take for the longest sequence."""
    fields: tuple[str, ...]
    """Which of tokens, token_types and ia3_rows there are behind the positions."""

    @property
    def size(self) -> int:
        """int32 of all arrays."""
        return self.num_sequences + 1 + (1 + len(self.fields)) * self.num_tokens

    def fill(self, batch: EncodeBatch, memory: Int32Array) -> None:
        """Writes the arrays of a batch; what it has no values for is 0.

        Args:
            memory: [size]
        """
        count, begin = len(batch.lengths), self.num_sequences + 1
        bounds, rows = memory[:begin], memory[begin:].reshape(-1, self.num_tokens)
        bounds[0] = 0
        batch.lengths.cumsum(out=bounds[1 : count + 1])
        end = int(bounds[count])
        bounds[count + 1 :] = end
        rows[:, end:] = 0
        starts = bounds[:count].repeat(batch.lengths)
        np.subtract(np.arange(end, dtype=np.int32), starts, out=rows[0, :end])
        for row, field in zip(rows[1:], self.fields, strict=True):
            values = getattr(batch, field)
            if values is not None and field == "ia3_rows":
                values = values.repeat(batch.lengths)
            row[:end] = 0 if values is None else values

    def step(self, memory: Tensor, maps: AttentionMaps | None = None) -> EncodeStep:
        """The step that reads its arrays from `memory` [size]."""
        begin = self.num_sequences + 1
        positions, *others = memory[begin:].view(-1, self.num_tokens).unbind()
        placed = dict(zip(self.fields, others, strict=True))
        metadata = EncoderMetadata(positions, memory[:begin], self.max_seqlen, maps, placed.get("ia3_rows"))
        return EncodeStep(metadata, placed.get("tokens"), placed.get("token_types"))


def place(batch: EncodeBatch, device: torch.device, multiple: int = 1) -> EncodeStep:
    """The batch by one copy, as it is or filled up to a multiple of tokens."""
    fields = tuple(name for name in ("tokens", "token_types", "ia3_rows") if getattr(batch, name) is not None)
    num_tokens = -(-int(batch.lengths.sum()) // multiple) * multiple
    layout = StepLayout(len(batch.lengths), num_tokens, int(batch.lengths.max()), fields)
    return layout.step(filled(layout.size, partial(layout.fill, batch), device), _maps(batch))


def wants_maps(batch: EncodeBatch) -> bool:
    """Whether any input does."""
    return any(ATTENTIONS in outputs for outputs in batch.outputs)


def _maps(batch: EncodeBatch) -> AttentionMaps | None:
    """Of the inputs that ask for them."""
    if not wants_maps(batch):
        return None
    return AttentionMaps(
        [
            (begin, end)
            for begin, end, outputs in zip(*_spans(batch.lengths), batch.outputs, strict=True)
            if ATTENTIONS in outputs
        ]
    )


def _spans(lengths: Int32Array) -> tuple[Sequence[int], Sequence[int]]:
    """Where each input begins and ends."""
    ends = np.cumsum(lengths)
    return (ends - lengths).tolist(), ends.tolist()
