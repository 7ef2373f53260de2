# SPDX-License-Identifier: BSD-3-Clause
"""Candidates of beams and copies between them, by their definitions, on every device."""

import pytest
import torch

from fastertransformer import ops

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def indices(*values: int, device: str) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


@pytest.mark.parametrize("vocab_size", [7, 1031])
def test_candidates_are_the_most_probable_tokens_of_their_rows(device, vocab_size):
    logits = torch.randn((5, vocab_size), generator=torch.Generator().manual_seed(1)) * 4
    given, rows = logits.to(device), indices(4, 1, device=device)
    ops.normalise_rows(given, rows)
    assert torch.equal(given[[0, 2, 3]].cpu(), logits[[0, 2, 3]]), "rows that are no beams stay as they are"
    tokens = torch.full((2, 6), -1, dtype=torch.int32, device=device)
    logprobs = torch.full((2, 6), torch.nan, device=device)
    ops.beam_candidates(given, rows, tokens, logprobs)
    for row, line, values in zip((4, 1), tokens.cpu(), logprobs.cpu(), strict=True):
        distribution = logits[row].double().softmax(-1)
        best = distribution.topk(6)
        assert line.tolist() == best.indices.tolist()
        assert (values.double().exp() - best.values).abs().max() < 1e-6


def test_banned_tokens_come_last(device):
    logits = torch.full((1, 5), -torch.inf, device=device)
    logits[0, 3] = 0
    tokens, logprobs = (
        torch.zeros((1, 2), dtype=torch.int32, device=device),
        torch.zeros((1, 2), device=device),
    )
    ops.beam_candidates(logits, indices(0, device=device), tokens, logprobs)
    assert tokens[0, 0] == 3
    assert logprobs.tolist() == [[0, -torch.inf]]


def test_rows_are_copied_up_to_the_length(device):
    pool = torch.arange(24, dtype=torch.int32, device=device).view(4, 6)
    expected = pool.clone()
    expected[0, :4], expected[3, :4] = pool[2, :4], pool[2, :4]
    ops.copy_rows(pool, indices(2, 2, device=device), indices(0, 3, device=device), 4)
    assert torch.equal(pool, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_blocks_are_copied_in_all_layers(device, dtype):
    cache = torch.randn((3, 2, 6, 2, 4, 5), generator=torch.Generator().manual_seed(2)).to(device, dtype)
    expected = cache.clone()
    for source, target in ((1, 5), (1, 0), (4, 2)):
        expected[:, :, target] = cache[:, :, source]
    ops.copy_blocks(cache, indices(1, 1, 4, device=device), indices(5, 0, 2, device=device))
    assert torch.equal(cache, expected)
