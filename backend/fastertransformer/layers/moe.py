# SPDX-License-Identifier: BSD-3-Clause
"""A feed-forward part of many experts, of which a router chooses some for every token."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from .. import ops
from ..quant.dense import DenseWeight
from .mlp import Mlp

Expert = Callable[[Tensor], Tensor]


class Router:
    """The `top_k` experts of a token with the largest shares of softmax(weight x), in float32.

    (Shazeer et al., arXiv 1701.06538; Jiang et al., arXiv 2401.04088)

    Args:
        weight: [E, H], of the type of x. normalised: the shares of those that are chosen add up to 1.
    """

    def __init__(self, weight: Tensor, top_k: int, normalised: bool) -> None:
        self._weight = weight
        self._wide_weight = weight.float()
        self._skinny_rows = ops.skinny_rows(weight)
        self._top_k = top_k
        self._normalised = normalised

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[T, H] -> shares [T, k] float32 and experts [T, k] int32."""
        logits = self._logits(x)
        shares = logits.new_empty((len(x), self._top_k))
        experts = torch.empty_like(shares, dtype=torch.int32)
        ops.route(logits, self._normalised, shares, experts)
        return shares, experts

    def _logits(self, x: Tensor) -> Tensor:
        """[T, H] -> [T, E], in which few rows do not depend on each other."""
        if len(x) <= self._skinny_rows:
            return ops.skinny_logits(x, self._weight)
        return linear(x.float(), self._wide_weight)


class SharedExpert:
    """An expert that every token goes through, times sigmoid(gate x); gate: [1, H]."""

    def __init__(self, mlp: Expert, gate: Tensor) -> None:
        self._mlp = mlp
        self._gate = gate

    def __call__(self, x: Tensor) -> Tensor:
        """[T, H] -> this rank's part of the sum [T, H]."""
        return self._mlp(x) * linear(x, self._gate).sigmoid()


class Experts(Protocol):
    """This rank's share of every expert."""

    is_capturable: bool
    """Whether they ask the device nothing, so that a graph can hold them."""

    def __call__(self, x: Tensor, shares: Tensor, experts: Tensor, shared: Tensor | None) -> Tensor:
        """shared + the sum of each token's experts by their shares.

        Args:
            x, shared: [T, H]. shares, experts: [T, k] float32 and int32.
        """
        ...


class ExpertLoop:
    """One expert after the other, those that some token chose, each in the format of its weights.

    They follow one another in a fixed order, so that a token's sum does not depend on its neighbours. Who was
    chosen is read back from the device.
    """

    is_capturable = False

    def __init__(self, experts: Sequence[Expert]) -> None:
        self._experts = experts

    def __call__(self, x: Tensor, shares: Tensor, experts: Tensor, shared: Tensor | None) -> Tensor:
        total = torch.zeros_like(x, dtype=torch.float32)
        if shared is not None:
            total += shared
        for expert in sorted(set(experts.flatten().tolist())):
            rows, places = torch.where(experts == expert)
            total[rows] += self._experts[expert](x[rows]) * shares[rows, places, None]
        return total.to(x.dtype)


class GroupedExperts:
    """All experts in two products, of tokens that lie side by side by expert.

    Args:
        gate_up: [E, 2I, H]. down: [E, H, I]. kind: of `ops.gated_activation`.
    """

    is_capturable = True

    def __init__(self, gate_up: Tensor, down: Tensor, kind: str) -> None:
        self._gate_up = gate_up
        self._down = down
        self._kind = kind

    def __call__(self, x: Tensor, shares: Tensor, experts: Tensor, shared: Tensor | None) -> Tensor:
        rows = experts.new_empty(experts.numel())
        places, offsets = torch.empty_like(experts), experts.new_empty(len(self._gate_up) + 1)
        ops.group_by_expert(experts, rows, places, offsets)
        if ops.library_is_faster(self._gate_up, len(rows)):
            results = self._by_library(x, rows, offsets[1:])
        else:
            hidden = ops.grouped_gated_linear(x, self._gate_up, rows, offsets, self._kind)
            results = ops.grouped_linear(hidden, self._down, offsets)
        return ops.combine_experts(results, places, shares, shared)

    def _by_library(self, x: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
        """The same by torch's grouped product; ends: [E]."""
        product = torch._grouped_mm(x[rows.long()], self._gate_up.transpose(1, 2), offs=ends)
        hidden = ops.gated_activation(product, self._kind)
        return torch._grouped_mm(hidden, self._down.transpose(1, 2), offs=ends)


def join(experts: Sequence[Mlp]) -> Experts:
    """Experts with a gate and no biases, in the fastest way that their weights allow."""
    ups = [expert.up.weight.tensor for expert in experts if isinstance(expert.up.weight, DenseWeight)]
    downs = [expert.down.weight.tensor for expert in experts if isinstance(expert.down.weight, DenseWeight)]
    if not len(ups) == len(downs) == len(experts) or not ops.has_grouped_kernels(ups[0], downs[0]):
        return ExpertLoop(experts)
    return GroupedExperts(torch.stack(ups), torch.stack(downs), experts[0].kind)


class MoeMlp:
    """The sum of a token's experts by their shares, and of the shared expert where there is one."""

    def __init__(self, router: Router, experts: Experts, shared: SharedExpert | None) -> None:
        self._router = router
        self._experts = experts
        self._shared = shared

    @property
    def is_capturable(self) -> bool:
        """Whether it asks the device nothing."""
        return self._experts.is_capturable

    def __call__(self, x: Tensor) -> Tensor:
        """[T, H] -> this rank's part of the sum [T, H]."""
        shares, experts = self._router(x)
        return self._experts(x, shares, experts, None if self._shared is None else self._shared(x))
