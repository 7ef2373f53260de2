# SPDX-License-Identifier: BSD-3-Clause
"""Arguments of the sampling ops: steps whose rows ask for random combinations of everything."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastertransformer.ops import SAMPLING_FLOATS, SAMPLING_INTEGERS

NEUTRAL = {
    "temperature": 1.0,
    "repetition_penalty": 1.0,
    "top_k": 1,
    "top_p_decay": 1.0,
    "top_p_reset_id": -1,
}
NUM_POSITIONS = 300
NUM_WORDS, WORD_LENGTH, NUM_END_IDS, NUM_BIASES = 5, 4, 3, 7


@dataclass
class Step:
    """S rows in slots of their own; all tensors on the CPU."""

    logits: Tensor
    token_pool: Tensor
    slots: Tensor
    lengths: Tensor
    floats: Tensor
    integers: Tensor
    seeds: Tensor
    bad_words: Tensor
    end_ids: Tensor
    biases: Tensor

    def set(self, name: str, row: int, value: float) -> None:
        """Sets a parameter of the row's slot."""
        names, table = (
            (SAMPLING_FLOATS, self.floats) if name in SAMPLING_FLOATS else (SAMPLING_INTEGERS, self.integers)
        )
        table[names.index(name), self.slots[row]] = value

    def row(self, row: int) -> "Step":
        """The same step with this row alone."""
        one = slice(row, row + 1)
        return replace(self, logits=self.logits[one], slots=self.slots[one], lengths=self.lengths[one])


def neutral_step(logits: Tensor, seed: int = 0) -> Step:
    """Greedy rows with random histories, words and end ids, of which none counts."""
    generator = torch.Generator().manual_seed(seed)
    num_rows, vocab_size = logits.shape
    num_slots = num_rows + 3

    def tokens(*shape: int) -> Tensor:
        return torch.randint(vocab_size, shape, generator=generator, dtype=torch.int32)

    step = Step(
        logits=logits,
        token_pool=tokens(num_slots, NUM_POSITIONS) % min(vocab_size, 60),
        slots=torch.randperm(num_slots, generator=generator)[:num_rows].int(),
        lengths=torch.randint(1, NUM_POSITIONS, (num_rows,), generator=generator, dtype=torch.int32),
        floats=torch.zeros(len(SAMPLING_FLOATS), num_slots),
        integers=torch.zeros(len(SAMPLING_INTEGERS), num_slots, dtype=torch.int32),
        seeds=torch.randint(-(2**63), 2**63 - 1, (num_slots,), generator=generator),
        bad_words=tokens(num_slots, NUM_WORDS, WORD_LENGTH),
        end_ids=tokens(num_slots, NUM_END_IDS, 1),
        biases=_biases(num_slots, vocab_size, generator),
    )
    for row in range(num_rows):
        for name, value in NEUTRAL.items():
            step.set(name, row, value)
    return step


def random_step(num_rows: int, vocab_size: int, seed: int = 0, scale: float = 3.0) -> Step:
    """Every parameter is neutral in about half of the rows; a few rows only fill the step."""
    generator = torch.Generator().manual_seed(seed)
    step = neutral_step(torch.randn((num_rows, vocab_size), generator=generator) * scale, seed)
    for row in range(num_rows):
        for name, low, high in _CHOICES:
            if torch.rand((), generator=generator) < 0.5:
                value = low + (high - low) * float(torch.rand((), generator=generator))
                step.set(name, row, value if name in SAMPLING_FLOATS else int(value))
        step.set("prompt_len", row, int(step.lengths[row]) // 2)
        _end_with_heads(step, row, generator)
        _repeat_the_end(step, row, generator)
    step.token_pool[torch.rand(step.token_pool.shape, generator=generator) < 0.05] = -3
    if num_rows > 3:
        step.slots[torch.randperm(num_rows, generator=generator)[: num_rows // 4]] = -1
    return step


_CHOICES = (
    ("temperature", 0.3, 3.0),
    ("top_p", 0.01, 1.0),
    ("min_p", 0.0, 0.3),
    ("repetition_penalty", 0.5, 2.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -1.0, 1.0),
    ("top_k", 0, 100),
    ("first_end", 1, 2 * NUM_POSITIONS),
    ("num_bad_words", 1, NUM_WORDS + 0.99),
    ("num_end_ids", 1, NUM_END_IDS + 0.99),
    ("wants_logprob", 1, 1),
    ("top_p_decay", 0.8, 0.9999),
    ("top_p_min", 0.0, 0.5),
    ("top_p_reset_id", 0, 60),
    ("no_repeat_ngram_size", 1, 4),
    ("num_biases", 1, NUM_BIASES + 0.99),
)


def _biases(num_slots: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """[slots, NUM_BIASES, 2]: different tokens of a row, and bits of floats."""
    tokens = [torch.randperm(vocab_size, generator=generator)[:NUM_BIASES] for _ in range(num_slots)]
    values = torch.randn((num_slots, NUM_BIASES), generator=generator) * 5
    return torch.stack((torch.stack(tokens).int(), values.view(torch.int32)), -1)


def _end_with_heads(step: Step, row: int, generator: torch.Generator) -> None:
    """Gives the row's words random lengths; about half of them continue the end of the row."""
    slot, length = int(step.slots[row]), int(step.lengths[row])
    for word in step.bad_words[slot]:
        head = int(torch.randint(WORD_LENGTH, (), generator=generator))
        word[: WORD_LENGTH - 1 - head] = -1
        if head and length >= head and torch.rand((), generator=generator) < 0.5:
            word[WORD_LENGTH - 1 - head : -1] = step.token_pool[slot, length - head : length]


def _repeat_the_end(step: Step, row: int, generator: torch.Generator) -> None:
    """Writes the last three tokens of the row into it once more."""
    slot, length = int(step.slots[row]), int(step.lengths[row])
    if length > 8:
        at = int(torch.randint(length - 7, (), generator=generator))
        step.token_pool[slot, at : at + 3] = step.token_pool[slot, length - 3 : length].clone()
