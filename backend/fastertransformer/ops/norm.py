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


@op(out=lambda x, residual, weight, eps: torch.empty_like(x))
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """residual += x in place; rms_norm of the sum."""
    residual += x
    return rms_norm(residual, weight, eps)


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


@op(out=lambda x, residual, weight, bias, eps: torch.empty_like(x))
def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """residual += x in place; layer_norm of the sum."""
    residual += x
    return layer_norm(residual, weight, bias, eps)
