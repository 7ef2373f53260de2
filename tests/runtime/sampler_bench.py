# SPDX-License-Identifier: BSD-3-Clause
"""A sampler with its table and token pool, on any device."""

import numpy as np
import torch

from fastertransformer.engine.batch import Admission
from fastertransformer.messages import SamplingParams
from fastertransformer.runtime.sampler import Sampler
from fastertransformer.runtime.sampling_table import Needs, SamplingTable

VOCAB_SIZE = 50
END_ID = 3


class Bench:
    """A sampler whose rows are admitted with a history; slots in admission order."""

    def __init__(self, device: torch.device, max_num_seqs: int = 40) -> None:
        self.device = device
        self.pool = torch.zeros((max_num_seqs, 64), dtype=torch.int32, device=device)
        self.table = SamplingTable(max_num_seqs, device)
        self.sampler = Sampler(self.table, self.pool)
        self.lengths: list[int] = []

    def admit(self, tokens: list[int], prompt_len: int | None = None, **sampling: object) -> None:
        slot = len(self.lengths)
        history = np.array(tokens, np.int32)
        self.pool[slot, : len(tokens)] = torch.from_numpy(history)
        params = SamplingParams(max_tokens=9, **sampling)
        self.table.put_all([Admission(slot, history, prompt_len or len(tokens), (END_ID,), params)])
        self.lengths.append(len(tokens))

    def arguments(self, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Slots and lengths."""
        return np.array(rows, np.int32), np.array([self.lengths[row] for row in rows], np.int32)

    def draw(
        self, logits: torch.Tensor, rows: list[int] | None = None, needs: Needs | None = None
    ) -> tuple[list[int], list[float]]:
        where = self.arguments(list(range(len(self.lengths))) if rows is None else rows)
        slots, lengths = (torch.from_numpy(array).to(self.device) for array in where)
        needs = needs or self.table.needs(*where)
        tokens, logprobs = self.sampler(logits.clone().to(self.device), slots, lengths, needs)
        return tokens.tolist(), logprobs.tolist()


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, VOCAB_SIZE), generator=torch.Generator().manual_seed(seed)) * 3
