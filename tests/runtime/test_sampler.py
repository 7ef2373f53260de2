# SPDX-License-Identifier: BSD-3-Clause
"""The sampler against transformers' processors and against closed forms; rows never disturb each other."""

import pytest
import torch
from sampler_bench import END_ID, VOCAB_SIZE, Bench, random_logits
from transformers import (
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fastertransformer.runtime.sampling_table import Needs

ALL_KINDS = [
    {},
    {"top_k": 4, "seed": 5},
    {"top_p": 0.8, "temperature": 1.5, "seed": 9, "logprobs": True},
    {"repetition_penalty": 1.4, "bad_words": ((9,), (1, 2, 3))},
    {"frequency_penalty": 0.7, "min_length": 8},
    {"min_p": 0.05, "seed": 2**64 - 1},
    {"temperature": 0.0, "top_k": 9, "presence_penalty": -0.5},
    {"top_k": 2**40, "top_p": 1e-6, "min_length": 2**40},
    {
        "temperature": 0.7,
        "top_k": 30,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "min_length": 4,
        "seed": 2**63,
        "logprobs": True,
        "bad_words": ((4,), (7, 8)),
    },
    {"top_p": 0.9, "top_p_decay": 0.5, "top_p_min": 0.1, "top_p_reset_id": 2, "seed": 11},
    {"no_repeat_ngram_size": 2, "logit_bias": ((4, 5.5), (5, -3.0)), "logprobs": True},
    {"no_repeat_ngram_size": 2**40, "top_p": 0.5},
]


def distribution(
    device: torch.device, logits: torch.Tensor, draws: int = 4000, **sampling: object
) -> torch.Tensor:
    """Relative frequencies over many seeds of one row."""
    counts = torch.zeros(VOCAB_SIZE)
    for first in range(0, draws, 40):
        bench = Bench(device)
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
def test_filters_keep_the_tokens_and_the_masses_of_transformers(device, sampling, warpers):
    logits = random_logits(1)
    filtered = logits.clone()
    for warper in warpers:
        filtered = warper(torch.tensor([[1, 2]]), filtered)
    expected = filtered.softmax(-1)[0]
    drawn = distribution(device, logits[0], **sampling)
    assert not drawn[expected == 0].any(), "a token that the filter removed was drawn"
    assert (drawn - expected).abs().max() < 0.04


def test_temperature_flattens(device):
    logits = random_logits(1)
    drawn = distribution(device, logits[0], temperature=3.0, top_k=VOCAB_SIZE)
    assert (drawn - (logits[0] / 3).softmax(-1)).abs().max() < 0.04


def test_repetition_penalty_equals_transformers(device):
    bench = Bench(device)
    logits = random_logits(1)
    history = [4, 7, 7, 9]
    bench.admit(history, prompt_len=2, repetition_penalty=1.7, logprobs=True)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([history]), logits.clone())
    (token,), (logprob,) = bench.draw(logits)
    assert token == expected.argmax().item()
    assert logprob == pytest.approx(expected.log_softmax(-1).max().item(), abs=1e-5)


def test_presence_counts_prompt_and_output_once_frequency_counts_output_each_time(device):
    logits = torch.zeros((1, VOCAB_SIZE))
    logits[0, [4, 7, 9]] = torch.tensor([5.0, 6.0, 4.5])
    bench = Bench(device)
    bench.admit([4, 7, 7, 7], prompt_len=1, presence_penalty=1.0, logprobs=True)
    bench.admit([4, 7, 7, 7], prompt_len=1, frequency_penalty=1.0, logprobs=True)
    tokens, _ = bench.draw(logits.expand(2, -1))
    assert tokens == [7, 4], "7 - 1 still wins by presence; 6 - 3 loses against an unpenalised prompt token"


def test_bad_words_equal_transformers_and_token_zero_can_be_one(device):
    words = [[0], [7, 8], [1, 7, 5], [6, 9]]
    logits = torch.full((1, VOCAB_SIZE), -9.0)
    logits[0, [0, 8, 5, 9, 2]] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    bench = Bench(device)
    history = [3, 1, 7]
    bench.admit(history, bad_words=tuple(map(tuple, words)))
    processed = NoBadWordsLogitsProcessor(words, eos_token_id=END_ID)(torch.tensor([history]), logits.clone())
    assert bench.draw(logits)[0] == [processed.argmax().item()] == [9]


def test_bad_word_longer_than_the_history_bans_nothing(device):
    bench = Bench(device)
    bench.admit([7], bad_words=((5, 6, 7, 8),))
    logits = torch.zeros((1, VOCAB_SIZE))
    logits[0, 8] = 1
    assert bench.draw(logits)[0] == [8]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("history", [[4, 7, 8, 4, 7], [9, 9, 9, 9], [5], [4, 7, 4, 7, 4, 7, 8, 4, 7]])
def test_no_repeated_ngram_as_in_transformers(device, size, history):
    bench, logits = Bench(device), torch.full((1, VOCAB_SIZE), -9.0)
    logits[0, [8, 4, 9, 5, 7, 3]] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    bench.admit(history, no_repeat_ngram_size=size)
    expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor([history]), logits.clone())
    assert bench.draw(logits)[0] == [expected.argmax().item()]


def test_biases_equal_transformers_and_come_before_the_temperature(device):
    bench, logits = Bench(device), random_logits(1)
    biases = ((4, 2.5), (7, -30.0), (49, 4.0))
    bench.admit([1], logit_bias=biases, temperature=2.0, logprobs=True)
    biased = SequenceBiasLogitsProcessor([[[token], bias] for token, bias in biases])
    expected = biased(torch.tensor([[1]]), logits.clone()) / 2
    (token,), (logprob,) = bench.draw(logits)
    assert token == expected.argmax().item()
    assert logprob == pytest.approx(expected.log_softmax(-1).max().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("output", "top_p"),
    [([], 0.9), ([5], 0.6), ([5, 6], 0.4), ([5, 6, 7, 8], 0.3), ([5, 6, 2], 0.9), ([2, 2, 5], 0.6)],
)
def test_top_p_decays_with_the_output_and_starts_anew_after_the_reset_id(device, output, top_p):
    """A reset id of the prompt counts for nothing."""
    logits = random_logits(1)
    for seed in range(40):
        bench = Bench(device)
        history = [1, 2, *output]
        decay = {"top_p_decay": 2 / 3, "top_p_min": 0.3, "top_p_reset_id": 2}
        bench.admit(history, prompt_len=2, seed=seed, top_p=0.9, **decay)
        bench.admit(history, prompt_len=2, seed=seed, top_p=top_p)
        (decayed, plain), _ = bench.draw(logits.expand(2, -1))
        assert decayed == plain


@pytest.mark.parametrize(("generated", "ends"), [(0, False), (1, False), (2, True)])
def test_min_length_counts_the_end_id(device, generated, ends):
    bench = Bench(device)
    bench.admit([1, 2] + [5] * generated, prompt_len=2, min_length=3)
    logits = torch.zeros((1, VOCAB_SIZE))
    logits[0, END_ID] = 9
    assert (bench.draw(logits)[0] == [END_ID]) is ends


def test_rows_do_not_disturb_each_other(device):
    bench, logits = Bench(device), random_logits(len(ALL_KINDS))
    for number, sampling in enumerate(ALL_KINDS):
        bench.admit([1, 2, number], prompt_len=2, **sampling)
    together = bench.draw(logits)
    alone = [bench.draw(logits[row : row + 1], [row]) for row in range(len(ALL_KINDS))]
    assert together == ([token for (token,), _ in alone], [logprob for _, (logprob,) in alone])
    assert bench.draw(logits, needs=Needs.everything()) == together


@pytest.mark.gpu
def test_a_captured_step_serves_whatever_comes():
    """One graph, other rows: tokens and log-probabilities are those of the CPU, where nothing is captured."""
    benches = [Bench(torch.device(name), 64) for name in ("cuda", "cpu")]
    for number in range(60):
        for bench in benches:
            history = [1, 2, *range(number % 7)]
            bench.admit(history, prompt_len=2, **ALL_KINDS[number * 7 % len(ALL_KINDS)])
    gpu = benches[0]
    rows = 16
    logits = torch.zeros(rows, VOCAB_SIZE, device="cuda")
    slots, lengths = (torch.full((rows,), value, dtype=torch.int32, device="cuda") for value in (-1, 1))
    gpu.sampler(logits, slots, lengths, Needs.everything())
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens, logprobs = gpu.sampler(logits, slots, lengths, Needs.everything())
    for step in range(8):
        present = list(range(7 * step, 7 * step + 1 + 2 * step))[:rows]
        present = [row % 60 for row in present]
        values = random_logits(len(present), seed=step)
        slots.fill_(-1)
        slots[: len(present)] = torch.tensor(present, dtype=torch.int32)
        lengths[: len(present)] = torch.from_numpy(gpu.arguments(present)[1]).cuda()
        logits[: len(present)] = values.cuda()
        graph.replay()
        wanted_tokens, wanted_logprobs = benches[1].draw(values, present)
        padding = [0] * (rows - len(present))
        assert tokens.tolist() == wanted_tokens + padding
        assert logprobs.tolist() == pytest.approx(wanted_logprobs + padding, abs=1e-5)


def test_a_slot_forgets_the_sequence_before(device):
    bench = Bench(device, 1)
    logits = random_logits(1)
    bench.admit([1], bad_words=((int(logits.argmax()),),), top_k=3, logprobs=True)
    bench.lengths.clear()
    bench.admit([1])
    assert bench.draw(logits) == ([logits.argmax().item()], [0.0])
