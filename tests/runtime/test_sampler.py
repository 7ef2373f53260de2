# SPDX-License-Identifier: BSD-3-Clause
"""The sampler against transformers' processors and against closed forms; rows never disturb each other."""

import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fastertransformer.engine.batch import Admission
from fastertransformer.messages import SamplingParams
from fastertransformer.runtime.sampler import Sampler
from fastertransformer.runtime.sampling_table import SamplingTable, is_greedy

VOCAB_SIZE = 50
END_ID = 3
CPU = torch.device("cpu")


class Bench:
    """A sampler whose rows are admitted with a history; slots in admission order."""

    def __init__(self, max_num_seqs: int = 40) -> None:
        self.pool = torch.zeros((max_num_seqs, 64), dtype=torch.int32)
        self.table = SamplingTable(max_num_seqs, CPU)
        self.sampler = Sampler(self.table, self.pool)
        self.lengths: list[int] = []

    def admit(self, tokens: list[int], prompt_len: int | None = None, **sampling: object) -> None:
        slot = len(self.lengths)
        history = np.array(tokens, np.int32)
        self.pool[slot, : len(tokens)] = torch.from_numpy(history)
        params = SamplingParams(max_tokens=9, **sampling)
        self.table.put(Admission(slot, history, prompt_len or len(tokens), (END_ID,), params))
        self.lengths.append(len(tokens))

    def draw(self, logits: torch.Tensor, rows: list[int] | None = None) -> tuple[list[int], list[float]]:
        rows = list(range(len(self.lengths))) if rows is None else rows
        lengths = np.array([self.lengths[row] for row in rows], np.int32)
        tokens, logprobs = self.sampler(logits.clone(), np.array(rows, np.int32), lengths)
        return tokens.tolist(), logprobs.tolist()


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, VOCAB_SIZE), generator=torch.Generator().manual_seed(seed)) * 3


def distribution(logits: torch.Tensor, draws: int = 4000, **sampling: object) -> torch.Tensor:
    """Relative frequencies over many seeds of one row."""
    counts = torch.zeros(VOCAB_SIZE)
    for first in range(0, draws, 40):
        bench = Bench()
        for seed in range(first, first + 40):
            bench.admit([1, 2], seed=seed, **sampling)
        for token in bench.draw(logits.expand(40, -1))[0]:
            counts[token] += 1
    return counts / draws


@pytest.mark.parametrize(
    ("sampling", "warpers"),
    [
        ({"top_k": 5}, [TopKLogitsWarper(5)]),
        ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
        ({"top_k": 8, "top_p": 0.6}, [TopKLogitsWarper(8), TopPLogitsWarper(0.6)]),
        ({"min_p": 0.1}, [MinPLogitsWarper(0.1)]),
        (
            {"top_k": 6, "top_p": 0.9, "min_p": 0.2},
            [TopKLogitsWarper(6), TopPLogitsWarper(0.9), MinPLogitsWarper(0.2)],
        ),
    ],
)
def test_filters_keep_the_tokens_and_the_masses_of_transformers(sampling, warpers):
    logits = random_logits(1)
    filtered = logits.clone()
    for warper in warpers:
        filtered = warper(torch.tensor([[1, 2]]), filtered)
    expected = filtered.softmax(-1)[0]
    drawn = distribution(logits[0], **sampling)
    assert not drawn[expected == 0].any(), "a token that the filter removed was drawn"
    assert (drawn - expected).abs().max() < 0.04


def test_temperature_flattens():
    logits = random_logits(1)
    drawn = distribution(logits[0], temperature=3.0, top_k=VOCAB_SIZE)
    assert (drawn - (logits[0] / 3).softmax(-1)).abs().max() < 0.04


def test_repetition_penalty_equals_transformers():
    bench = Bench()
    logits = random_logits(1)
    history = [4, 7, 7, 9]
    bench.admit(history, prompt_len=2, repetition_penalty=1.7, logprobs=True)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([history]), logits.clone())
    (token,), (logprob,) = bench.draw(logits)
    assert token == expected.argmax().item()
    assert logprob == pytest.approx(expected.log_softmax(-1).max().item(), abs=1e-5)


def test_presence_counts_prompt_and_output_once_frequency_counts_output_each_time():
    logits = torch.zeros((1, VOCAB_SIZE))
    logits[0, [4, 7, 9]] = torch.tensor([5.0, 6.0, 4.5])
    bench = Bench()
    bench.admit([4, 7, 7, 7], prompt_len=1, presence_penalty=1.0, logprobs=True)
    bench.admit([4, 7, 7, 7], prompt_len=1, frequency_penalty=1.0, logprobs=True)
    tokens, _ = bench.draw(logits.expand(2, -1))
    assert tokens == [7, 4], "7 - 1 still wins by presence; 6 - 3 loses against an unpenalised prompt token"


def test_bad_words_equal_transformers_and_token_zero_can_be_one():
    words = [[0], [7, 8], [1, 7, 5], [6, 9]]
    logits = torch.full((1, VOCAB_SIZE), -9.0)
    logits[0, [0, 8, 5, 9, 2]] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    bench = Bench()
    bench.admit([1, 7], bad_words=tuple(map(tuple, words)))
    processed = NoBadWordsLogitsProcessor(words, eos_token_id=END_ID)(torch.tensor([[1, 7]]), logits.clone())
    assert bench.draw(logits)[0] == [processed.argmax().item()] == [9]


def test_bad_word_longer_than_the_history_bans_nothing():
    bench = Bench()
    bench.admit([7], bad_words=((5, 6, 7, 8),))
    logits = torch.zeros((1, VOCAB_SIZE))
    logits[0, 8] = 1
    assert bench.draw(logits)[0] == [8]


@pytest.mark.parametrize(("generated", "ends"), [(0, False), (1, False), (2, True)])
def test_min_length_counts_the_end_id(generated, ends):
    bench = Bench()
    bench.admit([1, 2] + [5] * generated, prompt_len=2, min_length=3)
    logits = torch.zeros((1, VOCAB_SIZE))
    logits[0, END_ID] = 9
    assert (bench.draw(logits)[0] == [END_ID]) is ends


def test_rows_do_not_disturb_each_other():
    choices = [
        {},
        {"top_k": 4, "seed": 5},
        {"top_p": 0.8, "temperature": 1.5, "seed": 9, "logprobs": True},
        {"repetition_penalty": 1.4, "bad_words": ((9,), (1, 2, 3))},
        {"frequency_penalty": 0.7, "min_length": 8},
        {"min_p": 0.05, "seed": 2**64 - 1},
        {"temperature": 0.0, "top_k": 9},
    ]
    bench, logits = Bench(), random_logits(len(choices))
    for number, sampling in enumerate(choices):
        bench.admit([1, 2, number], prompt_len=2, **sampling)
    together = bench.draw(logits)[0]
    alone = [bench.draw(logits[row : row + 1], [row])[0][0] for row in range(len(choices))]
    assert together == alone


def test_a_slot_forgets_the_sequence_before():
    bench = Bench(1)
    logits = random_logits(1)
    bench.admit([1], bad_words=((int(logits.argmax()),),), top_k=3, logprobs=True)
    bench.lengths.clear()
    bench.admit([1])
    assert bench.draw(logits) == ([logits.argmax().item()], [0.0])


@pytest.mark.parametrize(
    ("sampling", "greedy"),
    [
        ({}, True),
        ({"top_k": 1, "top_p": 0.9}, True),
        ({"temperature": 0.0, "top_p": 0.9}, True),
        ({"temperature": 0.7}, True),
        ({"top_p": 0.9}, False),
        ({"min_p": 0.1}, False),
        ({"top_k": 2}, False),
    ],
)
def test_what_is_greedy(sampling, greedy):
    assert is_greedy(SamplingParams(max_tokens=1, **sampling)) is greedy
