# SPDX-License-Identifier: BSD-3-Clause
"""The sampling table: what rows ask for, words without limit, and uploads that nobody waits for."""

import numpy as np
import pytest
import torch
from sampler_bench import VOCAB_SIZE, Bench

from fastertransformer.engine.batch import Admission
from fastertransformer.messages import SamplingParams
from fastertransformer.runtime.sampling_table import Needs, SamplingTable, is_greedy


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


@pytest.mark.parametrize(
    ("sampling", "needs"),
    [
        ({}, Needs(processing=False, drawing=False, logprobs=False)),
        ({"temperature": 0.7}, Needs(processing=True, drawing=False, logprobs=False)),
        ({"presence_penalty": -1.0}, Needs(processing=True, drawing=False, logprobs=False)),
        ({"bad_words": ((4,),)}, Needs(processing=True, drawing=False, logprobs=False)),
        ({"min_length": 2}, Needs(processing=True, drawing=False, logprobs=False)),
        ({"min_length": 1}, Needs(processing=False, drawing=False, logprobs=False)),
        ({"no_repeat_ngram_size": 3}, Needs(processing=True, drawing=False, logprobs=False)),
        ({"logit_bias": ((4, 1.0),)}, Needs(processing=True, drawing=False, logprobs=False)),
        ({"top_k": 2}, Needs(processing=False, drawing=True, logprobs=False)),
        ({"logprobs": True}, Needs(processing=False, drawing=False, logprobs=True)),
    ],
)
def test_needs_are_those_of_the_rows_in_the_step(device, sampling, needs):
    bench = Bench(device)
    bench.admit([1, 2])
    bench.admit([1, 2], **sampling)
    nothing = Needs(processing=False, drawing=False, logprobs=False)
    assert bench.table.needs(*bench.arguments([0])) == nothing
    assert bench.table.needs(*bench.arguments([0, 1])) == needs


def test_there_is_room_for_more_and_longer_words(device):
    bench = Bench(device)
    logits = torch.arange(VOCAB_SIZE).float()[None]
    bench.admit([1, 2], bad_words=((49,),))
    first = bench.table.generation
    assert bench.draw(logits)[0] == [48]
    long = (*range(40), 47)
    bench.admit([1, *range(40)], bad_words=((49,), (48,), long, *((5, 6, 7) for _ in range(300))))
    assert bench.table.generation > first, "other tensors"
    assert bench.table.bad_words.tokens.shape[1:] == (512, 64)
    assert bench.draw(logits.expand(2, -1))[0] == [48, 46]
    again = bench.table.generation
    bench.admit([1, 2], bad_words=tuple((token,) for token in range(20, 50)))
    assert bench.draw(logits.expand(3, -1))[0] == [48, 46, 19]
    bench.admit([1, 2], bad_words=((3,),) * 513)
    assert bench.table.bad_words.tokens.shape[1:] == (1024, 64), "doubled, so that growth is rare"
    assert bench.table.generation > again
    assert bench.draw(logits.expand(4, -1))[0] == [48, 46, 19, 49]


def test_admissions_of_one_step_are_uploaded_together(device):
    table = SamplingTable(8, device)
    admissions = [
        Admission(
            slot, np.array([1], np.int32), 1, (slot, 7), SamplingParams(max_tokens=1, seed=2**64 - slot)
        )
        for slot in (6, 2, 3)
    ]
    table.put_all(admissions)
    assert table.seeds[[6, 2, 3]].tolist() == [-6, -2, -3]
    assert table.end_ids.tokens[[6, 2, 3], :2, 0].tolist() == [[6, 7], [2, 7], [3, 7]]
    assert table.floats[0, [6, 2, 3]].tolist() == [1, 1, 1]


@pytest.mark.gpu
def test_admission_does_not_wait_for_the_device():
    """Several admissions into one slot while the device is busy: each copy brings what was admitted then."""
    table = SamplingTable(8, torch.device("cuda"))
    tables = (table.seeds, table.bad_words.tokens[:, 0, -1], table.end_ids.tokens[:, 0, 0])
    for _ in range(2):  # torch gets its pinned memory in the first round
        torch.cuda.synchronize()
        torch.cuda._sleep(2_000_000_000)
        asleep = torch.cuda.Event()
        asleep.record()
        seen = []
        for seed in range(20):
            sampling = SamplingParams(max_tokens=1, seed=seed, bad_words=((seed,),))
            table.put_all([Admission(0, np.array([1], np.int32), 1, (seed, 5), sampling)])
            seen.append([tensor[0].clone() for tensor in tables])
        waited = asleep.query()
    assert not waited
    assert [[int(value) for value in values] for values in seen] == [[seed] * 3 for seed in range(20)]
