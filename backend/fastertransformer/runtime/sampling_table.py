# SPDX-License-Identifier: BSD-3-Clause
"""Sampling parameters of the sequences that run, one row per slot, on the host and on the device."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..engine.batch import Admission, Int32Array
from ..messages import SamplingParams

_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_INTEGERS = ("top_k", "min_length", "prompt_len")
_NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


def is_greedy(sampling: SamplingParams) -> bool:
    """FasterTransformer's rule: nothing asked for is greedy, and so is a single candidate."""
    unfiltered = sampling.top_k == 0 and sampling.top_p == 0 and sampling.min_p == 0
    return sampling.top_k == 1 or sampling.temperature == 0 or unfiltered


class WordTable:
    """Token sequences of every slot, right-aligned: [slots, W, L] int32, grown to the longest."""

    def __init__(self, max_num_seqs: int, device: torch.device) -> None:
        self.tokens = torch.full((max_num_seqs, 0, 1), -1, dtype=torch.int32, device=device)
        self.in_use = np.zeros(max_num_seqs, bool)

    def put(self, slot: int, words: tuple[tuple[int, ...], ...]) -> None:
        """Replaces the words of `slot`."""
        self.in_use[slot] = bool(words)
        if not words:
            return
        self._grow(len(words), max(len(word) for word in words))
        rows = np.full(self.tokens.shape[1:], -1, np.int32)
        for row, word in zip(rows, words, strict=False):
            row[-len(word) :] = word
        self.tokens[slot] = torch.from_numpy(rows)

    def _grow(self, num_words: int, length: int) -> None:
        slots, old_words, old_length = self.tokens.shape
        if num_words > old_words or length > old_length:
            size = (slots, max(num_words, old_words), max(length, old_length))
            grown = torch.full(size, -1, dtype=torch.int32, device=self.tokens.device)
            grown[:, :old_words, size[2] - old_length :] = self.tokens
            self.tokens = grown


class SamplingTable:
    """What the sampler looks up by slot. Flags live on the host: they decide which ops run at all."""

    def __init__(self, max_num_seqs: int, device: torch.device) -> None:
        self._floats = torch.zeros((len(_FLOATS), max_num_seqs), dtype=torch.float32, device=device)
        self._integers = torch.zeros((len(_INTEGERS), max_num_seqs), dtype=torch.int32, device=device)
        self._seeds = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self.bad_words = WordTable(max_num_seqs, device)
        self.end_ids = WordTable(max_num_seqs, device)
        self.is_greedy = np.zeros(max_num_seqs, bool)
        self.is_scaled = np.zeros(max_num_seqs, bool)
        self.is_penalised = np.zeros(max_num_seqs, bool)
        self.wants_logprobs = np.zeros(max_num_seqs, bool)
        self.first_end = np.zeros(max_num_seqs, np.int32)
        """[slots] length, prompt included, from which on an end id may come."""

    def put(self, admission: Admission) -> None:
        """Fills the row of a sequence that takes a slot."""
        slot, sampling = admission.slot, admission.sampling
        floats = [getattr(sampling, name) for name in _FLOATS]
        integers = [sampling.top_k, sampling.min_length, admission.prompt_len]
        self._floats[:, slot] = torch.tensor(floats)
        self._integers[:, slot] = torch.tensor(integers, dtype=torch.int32)
        self._seeds[slot] = int(np.uint64(sampling.seed).astype(np.int64))
        self.bad_words.put(slot, sampling.bad_words)
        self.end_ids.put(slot, tuple((end_id,) for end_id in admission.end_ids))
        self.is_greedy[slot] = is_greedy(sampling)
        self.is_scaled[slot] = sampling.temperature not in (0.0, 1.0)
        self.is_penalised[slot] = any(getattr(sampling, name) != off for name, off in _NEUTRAL.items())
        self.wants_logprobs[slot] = sampling.logprobs
        self.first_end[slot] = admission.prompt_len + sampling.min_length - 1

    def column(self, name: str, slots: Tensor) -> Tensor:
        """[S] values of one parameter for the sequences in `slots` [S] int64."""
        if name in _FLOATS:
            return self._floats[_FLOATS.index(name)][slots]
        return self._integers[_INTEGERS.index(name)][slots]

    def seeds(self, slots: Tensor) -> Tensor:
        return self._seeds[slots]

    def may_not_end(self, slots: Int32Array, lengths: Int32Array) -> npt.NDArray[np.bool_]:
        """[S] whether the row is still below its min_length (the end id counts as generated)."""
        return np.logical_and(lengths < self.first_end[slots], self.end_ids.in_use[slots])
