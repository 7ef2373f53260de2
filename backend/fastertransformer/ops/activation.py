# SPDX-License-Identifier: BSD-3-Clause
"""Element-wise activations of the MLP, plain and gated."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import op

FUNCTIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


@op(out=lambda x, kind: torch.empty_like(x))
def activation(x: Tensor, kind: str) -> Tensor:
    """act(x), [T, I]; kinds: gelu (erf), gelu_tanh, relu, silu. (Hendrycks and Gimpel, arXiv 1606.08415)"""
    result: Tensor = FUNCTIONS[kind](x.float())
    return result.to(x.dtype)


@op(out=lambda x, kind: x.new_empty((x.shape[0], x.shape[1] // 2)))
def gated_activation(x: Tensor, kind: str) -> Tensor:
    """act(x[:, :I]) * x[:, I:], [T, 2I] -> [T, I]. (Shazeer, arXiv 2002.05202)"""
    gate, up = x.float().chunk(2, -1)
    result: Tensor = FUNCTIONS[kind](gate) * up
    return result.to(x.dtype)
