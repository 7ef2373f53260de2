# SPDX-License-Identifier: BSD-3-Clause
"""Logits to tokens for the rows of one step, each with the parameters of its slot."""

import torch
from torch import Tensor

from .. import ops
from .sampling_table import Needs, SamplingTable


class Sampler:
    """Draws with the parameters in `table` and the history in `token_pool` [slots, positions] int32."""

    def __init__(self, table: SamplingTable, token_pool: Tensor) -> None:
        self._table = table
        self._token_pool = token_pool
        self._no_logprobs = torch.zeros(len(token_pool), device=token_pool.device)

    def __call__(self, logits: Tensor, slots: Tensor, lengths: Tensor, needs: Needs) -> tuple[Tensor, Tensor]:
        """Tokens [S] int32 and their log-probabilities [S] float32 (0 where not asked for).

        On a GPU nothing here waits for it or depends on what the tensors hold, so that it can be captured.

        Args:
            logits: [S, V] float32; overwritten.
            slots: [S] int32, -1 for rows that only fill the step; their token is 0.
            lengths: [S] int32, tokens each row has, which is the position of the token drawn.
            needs: what must run; a row that asks for less gets the same from more.
        """
        table = self._table
        given = (logits, self._token_pool, slots, lengths, table.floats, table.integers)
        if needs.processing:
            ops.process_logits(*given, table.bad_words.tokens, table.end_ids.tokens, table.biases.tokens)
        tokens = ops.sample(*given, table.seeds) if needs.drawing else ops.greedy(logits, slots)
        if needs.logprobs:
            return tokens, ops.log_probability(logits, tokens, slots, table.integers)
        return tokens, self._no_logprobs[: len(tokens)]
