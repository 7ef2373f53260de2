# SPDX-License-Identifier: BSD-3-Clause
"""Cases: a mixture of experts, whose tokens spread over as many experts as they can."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from ....models.spec import ModelSpec, MoeSpec
from .case import Arguments, Case, Inputs

_WORD_BYTES = 4
"""Of shares, places and rows."""


def expert_cases(spec: ModelSpec, itemsize: int, rows: Iterable[int]) -> Iterator[Case]:
    """Every op of the experts with every number of tokens; nothing for a model without them."""
    if spec.moe is None:
        return
    for count in rows:
        yield from _routing(spec.moe, count)
        yield from _products(spec.moe, spec.hidden_size, spec.activation, count, itemsize)
        yield _sums(spec.moe, spec.hidden_size, count, itemsize)


def _experts(moe: MoeSpec, count: int, device: torch.device) -> Tensor:
    """[T, k], all experts in turn."""
    pairs = torch.arange(count * moe.num_experts_per_tok, dtype=torch.int32, device=device)
    return (pairs % moe.num_experts).view(count, -1)


def _groups(moe: MoeSpec, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows [P] and offsets [E + 1]."""
    experts = _experts(moe, count, device).flatten()
    order = experts.sort(stable=True).indices
    ends = experts.bincount(minlength=moe.num_experts).cumsum(0)
    rows = order // moe.num_experts_per_tok
    return rows.int(), torch.cat((ends.new_zeros(1), ends)).int()


def _routing(moe: MoeSpec, count: int) -> Iterator[Case]:
    num_experts, top_k = moe.num_experts, moe.num_experts_per_tok
    pairs = count * top_k

    def route(inputs: Inputs) -> Arguments:
        logits = inputs.normal(count, num_experts, dtype=torch.float32)
        return logits, True, inputs.uniform(count, top_k), inputs.integers(num_experts, count, top_k)

    def group(inputs: Inputs) -> Arguments:
        outputs = inputs.integers(count, pairs), inputs.integers(pairs, count, top_k)
        return _experts(moe, count, inputs.device), *outputs, inputs.integers(pairs, num_experts + 1)

    case = partial(Case, sizes=f"{count}x{top_k} of {num_experts}")
    yield case(op="route", make=route, num_bytes=(count * num_experts + 2 * pairs) * _WORD_BYTES)
    yield case(
        op="group_by_expert",
        make=group,
        num_bytes=(3 * pairs + num_experts) * _WORD_BYTES,
        capturable=False,
    )


def _products(moe: MoeSpec, hidden: int, activation: str, count: int, itemsize: int) -> Iterator[Case]:
    num_experts, size = moe.num_experts, moe.intermediate_size
    pairs = count * moe.num_experts_per_tok
    active = min(pairs, num_experts)

    def up(inputs: Inputs) -> Arguments:
        weight = inputs.normal(num_experts, 2 * size, hidden)
        return inputs.normal(count, hidden), weight, *_groups(moe, count, inputs.device), activation

    def down(inputs: Inputs) -> Arguments:
        weight = inputs.normal(num_experts, hidden, size)
        return inputs.normal(pairs, size), weight, _groups(moe, count, inputs.device)[1]

    case = partial(Case, sizes=f"{num_experts}x{size}x{hidden} P={pairs}", capturable=False)
    yield case(
        op="grouped_gated_linear",
        make=up,
        num_bytes=(active * 2 * size * hidden + count * hidden + pairs * size) * itemsize,
        flops=4 * pairs * size * hidden,
    )
    yield case(
        op="grouped_linear",
        make=down,
        num_bytes=(active * size * hidden + pairs * (size + hidden)) * itemsize,
        flops=2 * pairs * size * hidden,
    )


def _sums(moe: MoeSpec, hidden: int, count: int, itemsize: int) -> Case:
    top_k = moe.num_experts_per_tok
    pairs = count * top_k

    def make(inputs: Inputs) -> Arguments:
        places = inputs.permutation(pairs).view(count, top_k)
        return inputs.normal(pairs, hidden), places, inputs.uniform(count, top_k), None

    return Case(
        op="combine_experts",
        sizes=f"{count}x{top_k}x{hidden}",
        make=make,
        num_bytes=(pairs + count) * hidden * itemsize + 2 * pairs * _WORD_BYTES,
    )
