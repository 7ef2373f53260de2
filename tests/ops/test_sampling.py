# SPDX-License-Identifier: BSD-3-Clause
"""The sampling ops: bodies against published numbers and double precision, kernels against bodies."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from kernels import GPU, KERNEL_SETS, assert_close, run
from sampling_steps import Step, neutral_step, random_step
from torch import Tensor

from fastertransformer.ops import SAMPLING_FLOATS, SAMPLING_INTEGERS
from fastertransformer.ops.registry import OPS
from fastertransformer.ops.sampling import philox, philox_uniform, shares

SIZES = [
    *((1, 50), (2, 1000), (65, 1000), (7, 32000), (3, 50257), (9, 50400), (1, 128256), (4, 128256)),
    *((100, 3000), (200, 3000)),  # a GPU has fewer blocks for a row, the more rows there are
]
BODY_AND_GPU = ["body", GPU]
INFINITY = torch.inf


def call(kernels: str, name: str, *arguments: Any) -> tuple[Tensor | None, list[Any]]:
    """(result, arguments afterwards) of the op's body or of its kernel."""
    if kernels != "body":
        return run(kernels, name, *arguments)
    after = [value.clone() for value in arguments]
    return OPS[name].body(*after), after


def process(kernels: str, step: Step) -> Tensor:
    words = (step.bad_words, step.end_ids, step.biases)
    tables = (step.floats, step.integers)
    rows = (step.logits, step.token_pool, step.slots, step.lengths)
    return call(kernels, "process_logits", *rows, *tables, *words)[1][0]


def sample(kernels: str, step: Step) -> Tensor:
    tables = (step.floats, step.integers, step.seeds)
    return call(kernels, "sample", step.logits, step.token_pool, step.slots, step.lengths, *tables)[0]


def log_probability(kernels: str, step: Step, tokens: Tensor) -> Tensor:
    return call(kernels, "log_probability", step.logits, tokens, step.slots, step.integers)[0]


def drawing_step(logits: Tensor, **parameters: float) -> Step:
    """All rows draw, with these parameters."""
    step = neutral_step(logits)
    for row in range(len(logits)):
        for name, value in {"top_k": 0, "top_p": 1.0, **parameters}.items():
            step.set(name, row, value)
    return step


def uniform(step: Step) -> Tensor:
    return philox_uniform(step.seeds[step.slots.long()], step.lengths)


# Definitions


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_is_the_published_generator(counter, key, expected):
    """Random123's known answers for philox4x32-10."""
    words = philox([torch.tensor(word) for word in counter], [torch.tensor(word) for word in key])
    assert [word.item() for word in words] == expected


def test_seed_is_the_key_and_position_the_counter():
    number = philox_uniform(torch.tensor([0]), torch.tensor([0], dtype=torch.int32))
    assert number.item() == ((0x6627E8D5 >> 8) + 0.5) * 2.0**-24


def test_uniform_is_uniform_and_independent_of_the_batch():
    seeds = torch.arange(20_000, dtype=torch.int64) * 7919 - 5
    positions = torch.arange(20_000, dtype=torch.int32) % 97
    numbers = philox_uniform(seeds, positions)
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert abs(numbers.mean().item() - 0.5) < 0.01
    assert abs(numbers.var().item() - 1 / 12) < 0.003
    assert torch.equal(philox_uniform(seeds[7:8], positions[7:8]), numbers[7:8])


def test_shares_are_exponentials():
    logits = torch.cat([-torch.rand(1, 200_000) * 27.7, torch.tensor([[0.0]])], -1) + 13.1
    exact = (logits.double() - logits.double().max()).exp()
    assert (shares(logits) / exact - 1).abs().max() < 4e-6
    assert shares(logits)[0, -1] == 1
    assert shares(torch.tensor([[0.0, -30.0, -INFINITY, -1e30]]))[0, 1:].max() < 2.0**-40


def draw_in_double_precision(
    logits: Tensor, top_k: int, top_p: float, min_p: float, number: float, margin: float = 1e-5
) -> int | None:
    """The token of one row [V]; None where a limit lies so near that rounding may decide."""
    ordered, order = logits.double().softmax(-1).sort(descending=True, stable=True)
    kept = ordered[: top_k or None] / ordered[: top_k or None].sum()
    before = kept.cumsum(-1) - kept
    nucleus = before < (top_p or 1.0)
    floor = kept >= min_p * kept[0]
    mass = torch.zeros_like(ordered).scatter(0, order[: len(kept)], kept * (nucleus & floor))
    cumulative = mass.cumsum(-1) / mass.sum()
    distances = [(cumulative - number).abs().min()]
    if 0 < top_p < 1:
        distances.append((before - top_p).abs().min())
    if 0 < min_p < 1:
        distances.append((kept - min_p * kept[0]).abs().min())
    return int((cumulative > number).int().argmax()) if min(distances) > margin else None


def top_p_by_steps(step: Step, row: int) -> float:
    """FasterTransformer's loop: top_p after every token of the output."""
    slot, length = int(step.slots[row]), int(step.lengths[row])
    floats = dict(zip(SAMPLING_FLOATS, step.floats[:, slot].tolist(), strict=True))
    integers = dict(zip(SAMPLING_INTEGERS, step.integers[:, slot].tolist(), strict=True))
    top_p = floats["top_p"]
    if floats["top_p_decay"] == 1 or top_p == 0:
        return top_p
    for token in step.token_pool[slot, integers["prompt_len"] : length].tolist():
        top_p = max(top_p * floats["top_p_decay"], floats["top_p_min"])
        if token == integers["top_p_reset_id"]:
            top_p = floats["top_p"]
    return top_p


def test_sample_draws_as_in_double_precision():
    step = random_step(400, 500)
    step = replace(step, slots=step.slots.clamp(min=0))  # rows without a slot of their own share slot 0
    tokens, numbers = sample("body", step), uniform(step)
    certain = 0
    for row, slot in enumerate(step.slots.tolist()):
        min_p, top_k = float(step.floats[2, slot]), int(step.integers[0, slot])
        top_p = top_p_by_steps(step, row)
        expected = draw_in_double_precision(step.logits[row], top_k, top_p, min_p, float(numbers[row]))
        certain += expected is not None
        assert expected in (None, int(tokens[row])), f"row {row}: {top_k} {top_p} {min_p}"
    assert certain > 350


# Kernels


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize(("num_rows", "vocab_size"), SIZES)
@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_kernels_equal_their_bodies(kernels, num_rows, vocab_size, scale):
    for seed in range(3):
        step = random_step(num_rows, vocab_size, seed, scale)
        processed = process("body", step)
        assert torch.equal(process(kernels, step), processed)
        step = replace(step, logits=processed)
        tokens = sample("body", step)
        assert torch.equal(sample(kernels, step), tokens)
        assert_close(log_probability(kernels, step, tokens), log_probability("body", step, tokens))


@pytest.mark.parametrize("kernels", KERNEL_SETS)
@pytest.mark.parametrize(("num_rows", "vocab_size"), [(1, 1), (3, 31), *SIZES])
def test_greedy(kernels, num_rows, vocab_size):
    logits = torch.randn((num_rows, vocab_size), generator=torch.Generator().manual_seed(1)).round(decimals=1)
    slots = torch.arange(num_rows, dtype=torch.int32) - int(num_rows > 2)
    for values in (logits, -logits, logits.clamp(max=0.0), torch.full_like(logits, -INFINITY)):
        tokens, _ = run(kernels, "greedy", values, slots)
        assert torch.equal(tokens, OPS["greedy"].body(values, slots))


@pytest.mark.parametrize("kernels", BODY_AND_GPU)
@pytest.mark.parametrize("num_rows", [64, 100, 200])
def test_a_row_is_the_same_alone_and_among_others(kernels, num_rows):
    step = random_step(num_rows, 1000)
    processed = process(kernels, step)
    tokens = sample(kernels, replace(step, logits=processed))
    logprobs = log_probability(kernels, replace(step, logits=processed), tokens)
    for row in range(num_rows):
        alone = step.row(row)
        assert torch.equal(process(kernels, alone), processed[row : row + 1])
        alone = replace(alone, logits=processed[row : row + 1])
        assert torch.equal(sample(kernels, alone), tokens[row : row + 1])
        assert torch.equal(log_probability(kernels, alone, tokens[row : row + 1]), logprobs[row : row + 1])


@pytest.mark.parametrize("kernels", BODY_AND_GPU)
def test_rows_without_a_slot_are_not_touched(kernels):
    step = random_step(5, 1000)
    empty = step.slots < 0
    assert empty.any()
    step.logits[empty] = torch.nan
    step.lengths[empty] = 2**31 - 1
    processed = process(kernels, step)
    assert processed[empty].isnan().all()
    tokens = sample(kernels, replace(step, logits=processed))
    logprobs = log_probability(kernels, replace(step, logits=processed), tokens)
    assert not tokens[empty].any()
    assert not logprobs[empty].any()
    assert not call(kernels, "greedy", processed, step.slots)[0][empty].any()


@pytest.mark.parametrize("kernels", BODY_AND_GPU)
def test_neutral_rows_keep_their_bits(kernels):
    step = neutral_step(torch.randn(3, 9000) * 1e-3)
    step.logits[0, ::2] = -0.0
    assert torch.equal(process(kernels, step).view(torch.int32), step.logits.view(torch.int32))


@pytest.mark.parametrize("kernels", BODY_AND_GPU)
def test_what_is_banned_stays_so_whatever_a_penalty_makes_of_it(kernels):
    step = neutral_step(torch.randn(1, 1000))
    step.bad_words[..., :-1] = -1
    step.bad_words[step.slots.long(), :, -1] = step.token_pool[step.slots.long(), :1]
    for name, value in {"repetition_penalty": 0.0, "num_bad_words": 1}.items():
        step.set(name, 0, value)
    assert process(kernels, step)[0, step.token_pool[step.slots[0], 0]] == -INFINITY


@pytest.mark.parametrize("kernels", BODY_AND_GPU)
@pytest.mark.parametrize("vocab_size", [64, 50257, 131072])
@pytest.mark.parametrize(
    ("parameters", "share"),
    [({"top_p": 0.5}, 0.5), ({}, 1.0), ({"min_p": 1.0}, 1.0), ({"top_k": 2**31 - 1, "top_p": 0.25}, 0.25)],
)
def test_equal_logits_are_kept_in_the_order_of_the_vocabulary(kernels, vocab_size, parameters, share):
    step = drawing_step(torch.full((4, vocab_size), -3.7), **parameters)
    step.seeds[step.slots[0].long()] = -1  # 2^64 - 1
    kept = -int(-share * vocab_size // 1)
    assert torch.equal(sample(kernels, step), (uniform(step) * kept).int())


@pytest.mark.parametrize("kernels", BODY_AND_GPU)
@pytest.mark.parametrize("top_k", [2, 3, 40, 9000])
def test_top_k_of_equal_logits(kernels, top_k):
    step = drawing_step(torch.zeros(4, 10_000), top_k=top_k)
    assert torch.equal(sample(kernels, step), (uniform(step) * top_k).int())


@pytest.mark.parametrize("kernels", BODY_AND_GPU)
@pytest.mark.parametrize(
    ("parameters", "token"),
    [({"top_p": 1e-30}, 700), ({"min_p": 1.0}, 700), ({"top_k": 1}, 700), ({"top_k": 5, "top_p": 1e-3}, 700)],
)
def test_filters_that_leave_one(kernels, parameters, token):
    logits = torch.randn(8, 1000, generator=torch.Generator().manual_seed(2))
    logits[:, 700] = 9.0
    assert sample(kernels, drawing_step(logits, **parameters)).tolist() == [token] * 8


@pytest.mark.parametrize("kernels", BODY_AND_GPU)
@pytest.mark.parametrize("parameters", [{}, {"top_k": 7}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_logits_that_are_infinite(kernels, parameters):
    logits = torch.full((4, 40_000), -INFINITY)
    logits[1, 33_333] = -1e30
    logits[2, [7, 39_999]] = torch.tensor([-90.0, 2.0])
    logits[3, 12_345] = INFINITY
    step = drawing_step(logits, **parameters)
    assert sample(kernels, step).tolist() == [0, 33_333, 39_999, 12_345]


@pytest.mark.parametrize("kernels", BODY_AND_GPU)
def test_nan_gives_a_token_of_the_vocabulary(kernels):
    logits = torch.randn(3, 5000)
    logits[0] = torch.nan
    logits[1, 17] = torch.nan
    tokens = sample(kernels, drawing_step(logits, top_k=50, top_p=0.5))
    assert ((tokens >= 0) & (tokens < 5000)).all()


@pytest.mark.parametrize("kernels", [GPU])
@pytest.mark.parametrize("top_p", [0.0, 1e-4, 0.5, 0.9, 0.999999])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 30.0])
def test_nuclei_of_all_widths(kernels, top_p, scale):
    logits = torch.randn((33, 20_000), generator=torch.Generator().manual_seed(3)) * scale + 5
    logits[:, 10_000:] = logits[:, :10_000]
    for top_k in (0, 2, 1000):
        step = drawing_step(logits, top_p=top_p, top_k=top_k)
        assert torch.equal(sample(kernels, step), sample("body", step))


@pytest.mark.parametrize("kernels", [GPU])
def test_rows_may_lie_apart(kernels):
    step = random_step(3, 1001)
    wide = torch.randn(3, 1100)[:, :1001]
    wide.copy_(step.logits)
    step = replace(step, logits=wide)
    assert torch.equal(process(kernels, step), process("body", step))
    assert torch.equal(sample(kernels, step), sample("body", step))
