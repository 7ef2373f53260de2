# SPDX-License-Identifier: BSD-3-Clause
"""Logits to tokens for the rows of one batch, each with its own parameters. Runs only what rows ask for."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import ops
from ..engine.batch import Int32Array
from .sampling_table import SamplingTable, WordTable

# FasterTransformer divides by the temperature plus this, so that tiny ones stay finite.
_TEMPERATURE_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a batch on the device: index into the batch, slot [R] int64, tokens so far [R] int32."""

    index: Tensor
    slots: Tensor
    lengths: Tensor


class Sampler:
    """Draws with the parameters in `table` and the history in `token_pool` [slots, positions] int32."""

    def __init__(self, table: SamplingTable, token_pool: Tensor) -> None:
        self._table = table
        self._token_pool = token_pool

    def __call__(self, logits: Tensor, slots: Int32Array, lengths: Int32Array) -> tuple[Tensor, Tensor]:
        """Tokens [S] int32 and their log-probabilities [S] float32 (0 where not asked for).

        Args:
            logits: [S, V] float32; overwritten.
            slots: [S]; lengths: [S] tokens each row has, which is the position of the token drawn.
        """
        table = self._table
        if rows := self._rows(table.bad_words.in_use[slots], slots, lengths):
            self._ban(logits, rows, table.bad_words)
        if rows := self._rows(table.is_scaled[slots], slots, lengths):
            temperature = table.column("temperature", rows.slots) + _TEMPERATURE_EPSILON
            logits[rows.index] = logits[rows.index] / temperature[:, None]
        if rows := self._rows(table.is_penalised[slots], slots, lengths):
            self._penalise(logits, rows)
        if rows := self._rows(table.may_not_end(slots, lengths), slots, lengths):
            self._ban(logits, rows, table.end_ids)
        tokens: Tensor = ops.greedy(logits)
        if rows := self._rows(~table.is_greedy[slots], slots, lengths):
            tokens[rows.index] = self._draw(logits, rows)
        return tokens, self._logprobs(logits, tokens, bool(table.wants_logprobs[slots].any()))

    def _rows(self, mask: npt.NDArray[np.bool_], slots: Int32Array, lengths: Int32Array) -> Rows | None:
        """The rows in `mask`; None when there are none, so that their ops need not run."""
        index = np.flatnonzero(mask)
        if not len(index):
            return None
        columns = (index, slots[index].astype(np.int64), lengths[index])
        return Rows(*(torch.from_numpy(column).to(self._token_pool.device) for column in columns))

    def _ban(self, logits: Tensor, rows: Rows, words: WordTable) -> None:
        chosen = logits[rows.index]
        ops.ban_words(chosen, self._token_pool, rows.slots, rows.lengths, words.tokens[rows.slots])
        logits[rows.index] = chosen

    def _penalise(self, logits: Tensor, rows: Rows) -> None:
        chosen = logits[rows.index]
        ops.apply_penalties(
            chosen,
            self._token_pool,
            rows.slots,
            rows.lengths,
            self._table.column("prompt_len", rows.slots),
            self._table.column("repetition_penalty", rows.slots),
            self._table.column("presence_penalty", rows.slots),
            self._table.column("frequency_penalty", rows.slots),
        )
        logits[rows.index] = chosen

    def _draw(self, logits: Tensor, rows: Rows) -> Tensor:
        return ops.sample(
            logits[rows.index],
            self._table.column("top_k", rows.slots),
            self._table.column("top_p", rows.slots),
            self._table.column("min_p", rows.slots),
            ops.philox_uniform(self._table.seeds(rows.slots), rows.lengths),
        )

    def _logprobs(self, logits: Tensor, tokens: Tensor, wanted: bool) -> Tensor:
        if not wanted:
            return torch.zeros(len(tokens), dtype=torch.float32, device=tokens.device)
        return ops.log_probability(logits, tokens)
