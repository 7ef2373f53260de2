# SPDX-License-Identifier: BSD-3-Clause
"""Sampling parameters of the sequences that run, one column per slot, on the host and on the device."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine.batch import Admission, Int32Array
from ..messages import SamplingParams
from ..ops import SAMPLING_FLOATS, SAMPLING_INTEGERS
from .transfer import to_device

# FasterTransformer divides by the temperature plus this, so that tiny ones stay finite.
_TEMPERATURE_EPSILON = 1e-6
_INT32_MAX = 2**31 - 1
# Words and tokens per word that fit from the start: whoever captured the tables need not do it again.
_BAD_WORDS_CAPACITY = (16, 4)
_END_IDS_CAPACITY = (8, 1)
_BIASES_CAPACITY = (16, 2)


def is_greedy(sampling: SamplingParams) -> bool:
    """FasterTransformer's rule: nothing asked for is greedy, and so is one candidate. Beams never draw."""
    unfiltered = sampling.top_k == 0 and sampling.top_p == 0 and sampling.min_p == 0
    return unfiltered or sampling.top_k == 1 or sampling.temperature == 0 or sampling.beam_width > 1


class Needs(NamedTuple):
    """What some row of a step asks for; the rest need not run."""

    processing: bool
    drawing: bool
    logprobs: bool
    candidates: bool = False
    """Of beams."""
    logits: bool = False
    """As the sampler gets them."""

    @classmethod
    def everything(cls) -> "Needs":
        """For whoever cannot know: any row may ask for anything but logits, for which few ask."""
        return cls(processing=True, drawing=True, logprobs=True, candidates=True)


class Mirror:
    """An array that the host writes, and its copy on the device; on the CPU both are the same memory."""

    def __init__(self, host: Int32Array, device: torch.device) -> None:
        self.host = host
        self.tensor = torch.from_numpy(host)
        if device.type != "cpu":
            self.tensor = torch.empty_like(self.tensor, device=device)
        self.upload(0, len(host))

    def upload(self, first: int, last: int) -> None:
        """Brings rows [first, last) to the device, in the order of the current stream, and does not wait.

        The host may write on at once: what is copied is staged.
        """
        if self.tensor.is_cuda:
            out = self.tensor[first:last].view(-1)
            to_device([self.host[first:last]], out.device, out)


class WordTable:
    """Token sequences of every slot, right-aligned and padded with -1: [slots, W, L] int32."""

    def __init__(self, max_num_seqs: int, capacity: tuple[int, int], device: torch.device) -> None:
        self._device = device
        self._mirror = Mirror(np.full((max_num_seqs, *capacity), -1, np.int32), device)
        self._changed: list[int] = []
        self.generation = 0
        """Changes when `tokens` becomes another tensor."""

    @property
    def tokens(self) -> Tensor:
        return self._mirror.tensor

    def put(self, slot: int, words: tuple[tuple[int, ...], ...]) -> None:
        """Replaces the first words of `slot`."""
        if not words:
            return
        self._grow(len(words), max(len(word) for word in words))
        rows = self._mirror.host[slot]
        for row, word in zip(rows, words, strict=False):
            row[: -len(word)] = -1
            row[-len(word) :] = word
        self._changed.append(slot)

    def upload(self) -> None:
        """One copy of all slots between the first and the last that changed."""
        if self._changed:
            self._mirror.upload(min(self._changed), max(self._changed) + 1)
            self._changed.clear()

    def _grow(self, num_words: int, length: int) -> None:
        old = self._mirror.host
        slots, old_words, old_length = old.shape
        if num_words <= old_words and length <= old_length:
            return
        size = (slots, max(old_words, _rounded(num_words)), max(old_length, _rounded(length)))
        grown = np.full(size, -1, np.int32)
        grown[:, :old_words, size[2] - old_length :] = old
        self._mirror = Mirror(grown, self._device)
        self.generation += 1


def _rounded(size: int) -> int:
    """To a power of two, so that growth is rare."""
    return 1 << (size - 1).bit_length()


def _bits(value: float) -> int:
    """Those of the float32, as a signed integer."""
    return int(np.float32(value).view(np.int32))


class SamplingTable:
    """What the sampler looks up by slot, laid out as in ops/sampling.py."""

    def __init__(self, max_num_seqs: int, device: torch.device) -> None:
        # One array and so one copy: two rows of seeds (64 bits), which come first to be aligned.
        end = 2 + len(SAMPLING_FLOATS)
        memory = np.zeros((end + len(SAMPLING_INTEGERS), max_num_seqs), np.int32)
        self._mirror = Mirror(memory, device)
        self._host_seeds = memory[:2].reshape(-1).view(np.uint64)
        self._host = {
            **dict(zip(SAMPLING_FLOATS, memory[2:end].view(np.float32), strict=True)),
            **dict(zip(SAMPLING_INTEGERS, memory[end:], strict=True)),
        }
        self._asks = np.zeros((3, max_num_seqs), bool)
        """For processing, for drawing, for log-probabilities, whatever the length."""
        self._first_free = np.zeros(max_num_seqs, np.int32)
        """The length from which on all tokens may come."""
        self.seeds = self._mirror.tensor[:2].view(-1).view(torch.int64)
        self.floats = self._mirror.tensor[2:end].view(torch.float32)
        self.integers = self._mirror.tensor[end:]
        self.bad_words = WordTable(max_num_seqs, _BAD_WORDS_CAPACITY, device)
        self.end_ids = WordTable(max_num_seqs, _END_IDS_CAPACITY, device)
        self.biases = WordTable(max_num_seqs, _BIASES_CAPACITY, device)

    @property
    def generation(self) -> int:
        """Changes when a tensor of the table becomes another: what holds its address must be made again."""
        return sum(words.generation for words in self._lists)

    @property
    def _lists(self) -> tuple[WordTable, ...]:
        return self.bad_words, self.end_ids, self.biases

    def put_all(self, admissions: Iterable[Admission]) -> None:
        """Fills the columns of sequences that take a slot, for what is enqueued from now on. Never waits."""
        admissions = tuple(admissions)
        for admission in admissions:
            self._put(admission)
        if admissions:
            self._mirror.upload(0, len(self._mirror.host))
            for words in self._lists:
                words.upload()

    def _put(self, admission: Admission) -> None:
        slot, sampling = admission.slot, admission.sampling
        neutral = sampling.temperature in (0.0, 1.0)
        values: dict[str, float] = {
            "temperature": 1.0 if neutral else sampling.temperature + _TEMPERATURE_EPSILON,
            "top_k": 1 if is_greedy(sampling) else min(sampling.top_k, _INT32_MAX),
            "prompt_len": admission.prompt_len,
            "first_end": min(admission.prompt_len + sampling.min_length - 1, _INT32_MAX),
            "num_bad_words": len(sampling.bad_words),
            "num_end_ids": len(admission.end_ids),
            "wants_logprob": sampling.logprobs,
            "no_repeat_ngram_size": min(sampling.no_repeat_ngram_size, _INT32_MAX),
            "num_biases": len(sampling.logit_bias),
        }
        for name, column in self._host.items():
            column[slot] = values[name] if name in values else getattr(sampling, name)
        self._host_seeds[slot] = sampling.seed
        self.bad_words.put(slot, sampling.bad_words)
        self.end_ids.put(slot, tuple((end_id,) for end_id in admission.end_ids))
        self.biases.put(slot, tuple((token, _bits(bias)) for token, bias in sampling.logit_bias))
        penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
        lists = sampling.bad_words or sampling.logit_bias or sampling.no_repeat_ngram_size
        is_processed = not neutral or penalties != (1, 0, 0) or bool(lists)
        self._asks[:, slot] = is_processed, values["top_k"] != 1, sampling.logprobs
        self._first_free[slot] = values["first_end"] if admission.end_ids else 0

    def needs(
        self, slots: Int32Array, lengths: Int32Array, candidates: bool = False, logits: bool = False
    ) -> Needs:
        """What the rows of a step ask for.

        Args:
            slots: [S], none of them -1. lengths: [S] tokens of each row. candidates: some are beams.
            logits: some want theirs.
        """
        processing, drawing, logprobs = self._asks.take(slots, 1).any(1).tolist()
        processing = processing or bool((lengths < self._first_free.take(slots)).any())
        return Needs(processing, drawing, logprobs, candidates, logits)
