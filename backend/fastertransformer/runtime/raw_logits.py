# SPDX-License-Identifier: BSD-3-Clause
"""Logits that clients want: as they are before the sampler changes them, of prompts and of drawn tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.batch import Batch
from ..models import Model
from .samples import Samples
from .transfer import upload


class RawLogits:
    """Keeps a step's logits in memory that all graphs share, taken when the first request wants them.

    Args:
        max_num_seqs: no step samples more rows.
    """

    def __init__(self, model: Model, max_num_seqs: int) -> None:
        self._model = model
        self._max_num_seqs = max_num_seqs
        vocab_size = model.info.vocab_size
        self._none = torch.empty((0, vocab_size), dtype=torch.float32, device=model.device)
        self._memory: Tensor | None = None

    def keep(self, logits: Tensor) -> Tensor:
        """A copy of [S, V], which lasts until the next step."""
        if self._memory is None:
            self._memory = logits.new_empty((self._max_num_seqs, logits.shape[1]))
        return self._memory[: len(logits)].copy_(logits)

    def of_prompts(self, x: Tensor, hidden: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
        """[C, V] float32 of the step's tokens in `spans`; x, hidden: [T, H], as the layers leave them."""
        if not spans:
            return self._none
        x, hidden = (torch.cat([part[begin:end] for begin, end in spans]) for part in (x, hidden))
        return self._model.logits(x, hidden)

    def wanted(self, batch: Batch, samples: Samples, of_prompts: Tensor | None = None) -> Tensor:
        """[C + G, V] those of prompts, and behind them those of `Batch.logit_rows`."""
        of_prompts = self._none if of_prompts is None else of_prompts
        if samples.logits is None:
            return of_prompts
        rows = samples.logits.index_select(0, upload(batch.logit_rows, samples.logits.device))
        return torch.cat((of_prompts, rows))
