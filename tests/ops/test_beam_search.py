# SPDX-License-Identifier: BSD-3-Clause
"""Candidates of beams and copies between them."""

import pytest
import torch
from kernels import DTYPES, LAYOUTS, TOLERANCES, assert_equals_body, laid_out, run, sets_with
from torch import Tensor

KERNELS = ["body", *sets_with("beam_candidates")]
VOCABS = [1, 7, 129, 1031, 32128, 50257]


def indices(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def random_logits(rows: int, vocab_size: int, layout: str = "contiguous") -> Tensor:
    """No two of a row are equal."""
    generator = torch.Generator().manual_seed(vocab_size)
    orders = [torch.randperm(vocab_size, generator=generator) for _ in range(rows)]
    return laid_out(torch.stack(orders) * (20 / vocab_size) - 15, layout)


def candidates(kernels: str, logits: Tensor, counts: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Tokens and log-probabilities [S, columns], poisoned where nothing is written."""
    tokens = torch.full((len(logits), columns), -1, dtype=torch.int32)
    logprobs = torch.full((len(logits), columns), torch.nan)
    _, (unchanged, _, tokens, logprobs) = run(kernels, "beam_candidates", logits, counts, tokens, logprobs)
    assert torch.equal(unchanged, logits)
    return tokens, logprobs


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("vocab_size", VOCABS)
@pytest.mark.parametrize("kernels", sets_with("normalise_rows"))
def test_normalised_rows_equal_body(kernels, vocab_size, layout):
    logits = random_logits(5, vocab_size, layout)
    logits[1, : vocab_size // 2] = -torch.inf
    assert_equals_body(kernels, "normalise_rows", logits, indices(3, 8, 0, 8, 0))


@pytest.mark.parametrize("kernels", KERNELS)
def test_rows_that_are_no_beams_stay_as_they_are(kernels):
    logits = random_logits(3, 97)
    _, (after, _) = run(kernels, "normalise_rows", logits, indices(0, 4, 0))
    assert torch.equal(after[[0, 2]], logits[[0, 2]])
    wanted = logits[1].double().log_softmax(-1)
    assert (after[1] - wanted).abs().max() < 20 * TOLERANCES[torch.float32]


@pytest.mark.parametrize("rows", [1, 5, 64, 65])
@pytest.mark.parametrize("count", [1, 8, 127, 128, 129, 300])
@pytest.mark.parametrize("vocab_size", VOCABS)
@pytest.mark.parametrize("kernels", KERNELS)
def test_candidates_are_the_largest_of_their_rows(kernels, vocab_size, count, rows):
    logits = random_logits(rows, vocab_size, "misaligned")
    count = min(count, vocab_size)
    counts = torch.full((rows,), count, dtype=torch.int32)
    counts[1::3] = 0
    tokens, logprobs = candidates(kernels, logits, counts, count)
    for row in range(rows):
        if counts[row]:
            best = logits[row].topk(count)
            assert torch.equal(tokens[row].long(), best.indices)
            assert torch.equal(logprobs[row], best.values)
        else:
            assert bool((tokens[row] == -1).all())


@pytest.mark.parametrize("kernels", sets_with("beam_candidates"))
def test_every_row_gets_as_many_as_it_wants(kernels):
    logits, counts = random_logits(6, 5000), indices(2, 256, 0, 1, 131, 12)
    tokens, logprobs = candidates(kernels, logits, counts, 256)
    for row, count in enumerate(counts.tolist()):
        assert torch.equal(tokens[row, :count].long(), logits[row].topk(count).indices)
        assert bool((tokens[row, count:] == -1).all())
        assert bool(logprobs[row, count:].isnan().all())


@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("stride", [32, 512, 4096])
@pytest.mark.parametrize("kernels", KERNELS)
def test_large_ones_may_lie_anywhere(kernels, stride, rows):
    """Even where a few threads read all of them."""
    logits = random_logits(rows, 50_000)
    logits[:, ::stride] += 100
    logits[:, : 4 * stride : 4] += 50
    counts = torch.full((rows,), 100, dtype=torch.int32)
    tokens, logprobs = candidates(kernels, logits, counts, 100)
    best = logits.topk(100)
    assert torch.equal(logprobs, best.values)
    assert torch.equal(logits.gather(1, tokens.long()), best.values)
    assert all(len(set(row)) == 100 for row in tokens.tolist())


@pytest.mark.parametrize("kernels", KERNELS)
def test_equal_ones_come_once_each(kernels):
    tokens, logprobs = candidates(kernels, torch.zeros(2, 4000), indices(200, 200), 200)
    assert bool((logprobs == 0).all())
    assert all(len(set(row)) == 200 and min(row) >= 0 and max(row) < 4000 for row in tokens.tolist())


@pytest.mark.parametrize("kernels", KERNELS)
def test_banned_tokens_come_last(kernels):
    logits = torch.full((1, 5), -torch.inf)
    logits[0, 3] = -0.0
    tokens, logprobs = candidates(kernels, logits, indices(2), 2)
    assert tokens[0, 0] == 3
    assert logprobs.tolist() == [[0, -torch.inf]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", [0, 1, 255, 257, 700])
@pytest.mark.parametrize("kernels", KERNELS)
def test_rows_are_copied_up_to_the_length(kernels, length, layout):
    pool = laid_out(torch.arange(6 * 700, dtype=torch.int32).view(6, 700), layout)
    expected = pool.clone()
    for source, target in ((2, 0), (2, 3), (5, 1)):
        expected[target, :length] = pool[source, :length]
    _, after = run(kernels, "copy_rows", pool, indices(2, 2, 5), indices(0, 3, 1), length)
    assert torch.equal(after[0], expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 4, 5), (3, 16, 64), (1, 3, 8)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", ["body", *sets_with("copy_blocks")])
def test_blocks_are_copied_in_all_layers(kernels, dtype, shape):
    cache = torch.randn((3, 2, 6, *shape), generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = cache.clone()
    for source, target in ((1, 5), (1, 0), (4, 2)):
        expected[:, :, target] = cache[:, :, source]
    _, after = run(kernels, "copy_blocks", cache, indices(1, 1, 4), indices(5, 0, 2))
    assert torch.equal(after[0], expected)


@pytest.mark.parametrize("kernels", sets_with("copy_blocks"))
def test_no_copies(kernels):
    pool, cache = torch.zeros((2, 3), dtype=torch.int32), torch.zeros(1, 2, 2, 1, 4, 8)
    assert_equals_body(kernels, "copy_rows", pool, indices(), indices(), 3)
    assert_equals_body(kernels, "copy_blocks", cache, indices(), indices())
