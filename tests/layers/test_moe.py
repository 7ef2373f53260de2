# SPDX-License-Identifier: BSD-3-Clause
"""Routing: who is chosen, with which share, and that neighbours change nothing."""

import pytest
import torch

from fastertransformer.layers.moe import ExpertLoop, MoeMlp, Router, SharedExpert

NUM_EXPERTS, HIDDEN, TOKENS = 7, 16, 33


def expert(number: int):
    """Multiplies, element by element, so that a row's result does not depend on the other rows."""
    return lambda x: x * (number + 1.5)


@pytest.fixture
def x():
    return torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def weight():
    return torch.randn(NUM_EXPERTS, HIDDEN, generator=torch.Generator().manual_seed(4))


def moe(weight: torch.Tensor, top_k: int, normalised: bool, shared: SharedExpert | None = None) -> MoeMlp:
    return MoeMlp(
        Router(weight, top_k, normalised),
        ExpertLoop([expert(number) for number in range(NUM_EXPERTS)]),
        shared,
    )


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 7])
def test_a_token_is_the_sum_of_its_experts(x, weight, top_k, normalised):
    result = moe(weight, top_k, normalised)(x)
    for row, token in zip(result, x, strict=True):
        shares = (weight @ token).softmax(0)
        chosen = shares.argsort(descending=True)[:top_k]
        total = shares[chosen].sum() if normalised else 1.0
        factor = sum(shares[number] / total * (number + 1.5) for number in chosen)
        torch.testing.assert_close(row, token * factor)


def test_neighbours_change_nothing(x):
    """The experts of every token come in the same order, whichever others are at work."""

    def router(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rows[:, :3], rows[:, 3 : 3 + NUM_EXPERTS].topk(3).indices

    layer = MoeMlp(router, ExpertLoop([expert(number) for number in range(NUM_EXPERTS)]), None)
    assert torch.equal(torch.cat([layer(token[None]) for token in x]), layer(x))


def test_the_shared_expert_is_added_behind_its_gate(x, weight):
    gate = torch.randn(1, HIDDEN, generator=torch.Generator().manual_seed(5))
    with_shared = moe(weight, 2, False, SharedExpert(expert(10), gate))(x)
    added = x * 11.5 * torch.sigmoid(x @ gate.T)
    torch.testing.assert_close(with_shared, moe(weight, 2, False)(x) + added)


def test_16_bit_tokens_are_summed_in_32_bits(x, weight):
    low, weight = x.bfloat16(), weight.bfloat16()
    result = moe(weight, 7, True)(low)
    assert result.dtype is torch.bfloat16
    shares = (low.float() @ weight.float().T).softmax(-1)
    factors = (shares * (torch.arange(NUM_EXPERTS) + 1.5)).sum(-1, keepdim=True)
    torch.testing.assert_close(result.float(), low.float() * factors, rtol=2**-7, atol=0)
