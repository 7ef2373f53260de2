# SPDX-License-Identifier: BSD-3-Clause
"""A feed-forward part of many experts, of which a router chooses some for every token."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..quant.base import Weight
from .mlp import Mlp


class Router:
    """The `top_k` experts of a token with the largest shares of softmax(weight x), in float32.

    (Shazeer et al., arXiv 1701.06538; Jiang et al., arXiv 2401.04088)

    Args:
        weight: [E, H], float32. normalised: the shares of those that are chosen add up to 1.
    """

    def __init__(self, weight: Weight, top_k: int, normalised: bool) -> None:
        self._weight = weight
        self._top_k = top_k
        self._normalised = normalised

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[T, H] -> shares [T, k] and experts [T, k]."""
        shares, experts = self._weight.logits(x.float()).softmax(-1).topk(self._top_k)
        return shares / shares.sum(-1, keepdim=True) if self._normalised else shares, experts


class SharedExpert:
    """An expert that every token goes through, times sigmoid(gate x); gate: [1, H]."""

    def __init__(self, mlp: Mlp, gate: Tensor) -> None:
        self._mlp = mlp
        self._gate = gate

    def __call__(self, x: Tensor) -> Tensor:
        """[T, H] -> this rank's part of the sum [T, H]."""
        return self._mlp(x) * linear(x, self._gate).sigmoid()


class MoeMlp:
    """The sum of a token's experts by their shares, and of the shared expert where there is one.

    Every rank has its share of every expert. Experts follow one another in a fixed order, so that a token's
    sum does not depend on its neighbours. Which experts are at work is read back from the device.
    """

    def __init__(self, router: Router, experts: Sequence[Mlp], shared: SharedExpert | None) -> None:
        self._router = router
        self._experts = experts
        self._shared = shared

    def __call__(self, x: Tensor) -> Tensor:
        """[T, H] -> this rank's part of the sum [T, H]."""
        shares, chosen = self._router(x)
        total = torch.zeros_like(x, dtype=torch.float32) if self._shared is None else self._shared(x).float()
        for expert in sorted(set(chosen.flatten().tolist())):
            rows, places = torch.where(chosen == expert)
            total[rows] += self._experts[expert](x[rows]) * shares[rows, places, None]
        return total.to(x.dtype)
