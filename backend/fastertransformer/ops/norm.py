# SPDX-License-Identifier: BSD-3-Clause
"""Normalisation of the hidden dimension, alone or behind a residual sum."""

import torch
from torch import Tensor

from .registry import op


@op(out=lambda x, weight, eps: torch.empty_like(x))
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y[t, h] = weight[h] * x[t, h] / sqrt(mean_h(x[t]^2) + eps), accumulated in fp32.

    (Zhang and Sennrich, arXiv 1910.07467)

    Args:
        x: [T, H]. weight: [H].
    """
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.float()).to(x.dtype)


@op(out=lambda x, residual, weight, eps, keeps_sum: torch.empty_like(x))
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, keeps_sum: bool) -> Tensor:
    """rms_norm of residual + x; where `keeps_sum` is true, `residual` becomes the sum."""
    return rms_norm(_sum(x, residual, keeps_sum), weight, eps)


@op(out=lambda x, weight, bias, eps: torch.empty_like(x))
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """y[t, h] = weight[h] * (x[t, h] - mean(x[t])) / sqrt(var(x[t]) + eps) + bias[h], in fp32.

    (Ba et al., arXiv 1607.06450)

    Args:
        x: [T, H]. weight, bias: [H].
    """
    wide = x.float()
    centred = wide - wide.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return (centred * scale * weight.float() + bias.float()).to(x.dtype)


@op(out=lambda x, residual, weight, bias, eps, keeps_sum: torch.empty_like(x))
def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, keeps_sum: bool
) -> Tensor:
    """layer_norm of residual + x; where `keeps_sum` is true, `residual` becomes the sum."""
    return layer_norm(_sum(x, residual, keeps_sum), weight, bias, eps)


def _sum(x: Tensor, residual: Tensor, is_kept: bool) -> Tensor:
    return residual.add_(x) if is_kept else residual + x
