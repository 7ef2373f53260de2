# SPDX-License-Identifier: BSD-3-Clause
"""Steps of an encoder as CUDA graphs, from the embedding to the last layer.

A graph is captured for a number of inputs and a number of tokens (its bucket). A smaller step is filled up.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise

import numpy as np
from torch import Tensor

from ..engine.encode_batch import EncodeBatch
from ..models import EncoderModel
from .captures import Captures
from .encode_step import EncodeStep, StepLayout, wants_maps
from .transfer import filled

_FEWEST_TOKENS = 16
_LARGEST_STEP = 512
"""Measured: a GPU takes 0.2 ms for so many tokens of BERT-base, a host 3.5 to launch its kernels."""
_BATCH_FACTOR = 8

Step = Callable[[EncodeStep], Tensor]
"""Hidden states [T, H]."""


def token_buckets(largest: int) -> list[int]:
    """Numbers of tokens that get graphs: multiples of 16, a step up is a quarter at most from 64 on, and
    _LARGEST_STEP at most."""
    sizes, size = [], _FEWEST_TOKENS
    while size < largest:
        sizes.append(size)
        size += min(_LARGEST_STEP, max(_FEWEST_TOKENS, 1 << (size.bit_length() - 3)))
    return [*sizes, largest]


def batch_buckets(largest: int) -> list[int]:
    """Numbers of inputs that get graphs: those without tokens cost little."""
    sizes, size = [], 1
    while size < largest:
        sizes.append(size)
        size *= _BATCH_FACTOR
    return [*sizes, largest]


def reached_buckets(batch: list[int], tokens: list[int], max_seqlen: int) -> list[tuple[int, int]]:
    """(inputs, tokens) of the buckets that some step needs, the largest first: inputs have a token each, and
    up to `max_seqlen`."""
    return [
        (sequences, most)
        for less, most in reversed(list(pairwise((0, *tokens))))
        for fewer, sequences in reversed(list(pairwise((0, *batch))))
        if fewer < most and less < sequences * max_seqlen
    ]


class EncodeGraphs:
    """Captures and replays `step` for inputs of tokens.

    Args:
        max_num_tokens: of the largest step that gets a graph. max_seqlen: the longest input that can come.
    """

    def __init__(
        self, step: Step, model: EncoderModel, max_num_seqs: int, max_num_tokens: int, max_seqlen: int
    ) -> None:
        self._step = step
        self._device = model.device
        has = {
            "tokens": True,
            "token_types": model.encoding.num_token_types > 0,
            "ia3_rows": model.spec.ia3_num_tasks > 0,
        }
        self._fields = tuple(name for name, is_there in has.items() if is_there)
        self._token_buckets = token_buckets(max_num_tokens)
        self._batch_buckets = batch_buckets(max_num_seqs)
        self._max_seqlen = max_seqlen
        self._layout = cache(self._make_layout)
        self._captures = Captures(self._lay_out)

    @property
    def max_num_tokens(self) -> int:
        """Of the largest graph."""
        return self._token_buckets[-1]

    def capture_all(self, progress: Callable[[int, int], None]) -> None:
        """As `Captures` does: for every number of inputs and tokens that can come together."""
        keys = reached_buckets(self._batch_buckets, self._token_buckets, self._max_seqlen)
        self._captures.capture_all(keys, progress)

    def fits(self, batch: EncodeBatch) -> bool:
        """Whether there is a graph for the step."""
        return batch.tokens is not None and len(batch.tokens) <= self.max_num_tokens and not wants_maps(batch)

    def replay(self, batch: EncodeBatch) -> tuple[Tensor, Tensor]:
        """The step of a batch that fits: its own rows [T, H], and where its inputs begin [B + 1] int32; valid
        until the next replay."""
        assert batch.tokens is not None
        count = len(batch.tokens)
        sequences = self._batch_buckets[bisect_left(self._batch_buckets, len(batch.lengths))]
        tokens = self._token_buckets[bisect_left(self._token_buckets, count)]
        key = sequences, tokens
        hidden, cu_seqlens = self._captures.launch(key, lambda inputs: self._place(batch, key, inputs))
        return hidden[:count], cu_seqlens[: len(batch.lengths) + 1]

    def _place(self, batch: EncodeBatch, key: tuple[int, int], out: Tensor | None) -> Tensor:
        layout = self._layout(key)
        return filled(layout.size, partial(layout.fill, batch), self._device, out)

    def _make_layout(self, key: tuple[int, int]) -> StepLayout:
        return StepLayout(*key, min(key[1], self._max_seqlen), self._fields)

    def _lay_out(self, key: tuple[int, int]) -> tuple[Tensor, Callable[[], tuple[Tensor, Tensor]]]:
        one = EncodeBatch(
            lengths=np.ones(1, np.int32),
            outputs=((),),
            tokens=np.zeros(1, np.int32),
            token_types=None,
            hidden_states=None,
        )
        inputs = self._place(one, key, None)
        step = self._layout(key).step(inputs)
        return inputs, lambda: (self._step(step), step.metadata.cu_seqlens)
