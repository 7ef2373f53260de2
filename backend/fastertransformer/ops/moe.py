# SPDX-License-Identifier: BSD-3-Clause
"""A mixture of experts without a word to the host: who goes where, the products by expert, and the way back.

T tokens go to k experts each, which makes T * k pairs. Places are an order of the pairs in which those of an
expert lie side by side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import gated
from .registry import has_kernel, op

_COLUMNS = 8
"""The columns of the weights must be a multiple of this: rows of 16 bytes."""
_ROWS_OF_EXPERT = 16
"""Measured on an H200 in use by others: with 4 on average ours is as fast, with 64 thrice as slow."""
_LIBRARY_CAPABILITY = (9, 0)


def has_grouped_kernels(*weights: Tensor) -> bool:
    """Whether the products of this module have kernels for `weights` [E, N, K] on their device."""
    return all(
        weight.is_cuda
        and weight.dtype in (torch.bfloat16, torch.float16)
        and weight.shape[-1] % _COLUMNS == 0
        and has_kernel("cuda", "grouped_linear")
        for weight in weights
    )


def library_is_faster(weight: Tensor, num_pairs: int) -> bool:
    """Whether torch's grouped product beats `grouped_linear` with `weight` [E, N, K].

    Ours reads an expert's weights again for every 64 rows, torch's takes bfloat16 on Hopper.
    """
    return (
        weight.is_cuda
        and num_pairs > _ROWS_OF_EXPERT * weight.shape[0]
        and weight.dtype is torch.bfloat16
        and hasattr(torch, "_grouped_mm")
        and torch.cuda.get_device_capability(weight.device) == _LIBRARY_CAPABILITY
    )


@op(out=None)
def route(logits: Tensor, normalised: bool, shares: Tensor, experts: Tensor) -> None:
    """The k largest of a token's softmax, largest first, and their experts.

    Args:
        logits: [T, E] float32. normalised: the shares of a token add up to 1.
        shares, experts: [T, k] float32 and int32; written.
    """
    values, places = logits.softmax(-1).topk(shares.shape[1])
    shares.copy_(values / values.sum(-1, keepdim=True) if normalised else values)
    experts.copy_(places)


@op(out=None)
def group_by_expert(experts: Tensor, rows: Tensor, places: Tensor, offsets: Tensor) -> None:
    """Gives every pair its place. The order within an expert is undefined.

    Args:
        experts: [T, k] int32. rows: [T * k] int32, the token of each place. places: [T, k] int32.
        offsets: [E + 1] int32, the first place of each expert, and the number of pairs. All but `experts` are
            written.
    """
    order = experts.flatten().sort(stable=True).indices
    rows.copy_(order // experts.shape[1])
    places.view(-1)[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
    counts = experts.flatten().bincount(minlength=len(offsets) - 1)
    offsets[0] = 0
    offsets[1:] = counts.cumsum(0)


def _by_expert(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    bounds = offsets.tolist()
    return torch.cat([F.linear(x[bounds[i] : bounds[i + 1]], part) for i, part in enumerate(weight)])


@op(out=lambda x, weight, offsets: x.new_empty((x.shape[0], weight.shape[1])))
def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """x times the weights of each place's expert: [P, K] -> [P, N].

    Args:
        weight: [E, N, K]. offsets: [E + 1] int32.
    """
    return _by_expert(x, weight, offsets)


@op(out=lambda x, weight, rows, offsets, kind: x.new_empty((len(rows), weight.shape[1] // 2)))
def grouped_gated_linear(x: Tensor, weight: Tensor, rows: Tensor, offsets: Tensor, kind: str) -> Tensor:
    """act(gate) * up of x[rows], with the two halves of its expert's weights, in float32 and rounded once.

    x [T, K], weight [E, 2I, K], rows [P] int32, offsets [E + 1] int32 -> [P, I]; kinds as in
    `gated_activation`.
    """
    return gated(_by_expert(x[rows.long()].float(), weight.float(), offsets), kind).to(x.dtype)


@op(out=lambda results, places, shares, shared: results.new_empty((places.shape[0], results.shape[1])))
def combine_experts(results: Tensor, places: Tensor, shares: Tensor, shared: Tensor | None) -> Tensor:
    """shared + the sum of a token's results by their shares, in float32 and rounded once: [T, H].

    Args:
        results: [P, H]. places, shares: [T, k] int32 and float32. shared: [T, H].
    """
    total = (results[places.long()].float() * shares[..., None]).sum(1)
    return (total if shared is None else total + shared).to(results.dtype)
