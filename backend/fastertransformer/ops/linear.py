# SPDX-License-Identifier: BSD-3-Clause
"""Matrix products with few rows: reading the weights once is all that matters."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import has_kernel, op

_CPU_ROWS = {torch.float32: 16, torch.float16: 32, torch.bfloat16: 4}
"""Measured on a CPU with AVX-512: torch has matrix instructions for bfloat16, and none for float16."""
_GPU_ROWS = 64
_GPU_COLUMNS = 64
"""The columns of the weight must be a multiple of this."""


def skinny_rows(weight: Tensor) -> int:
    """Up to how many rows `skinny_linear` beats torch's product with `weight` [N, K]; 0 where never."""
    if not weight.is_cuda:
        return _CPU_ROWS[weight.dtype]
    fits = weight.dtype != torch.float32 and weight.shape[1] % _GPU_COLUMNS == 0
    return _GPU_ROWS if fits and has_kernel("cuda", "skinny_linear") else 0


@op(out=lambda x, weight, bias: x.new_empty((x.shape[0], weight.shape[0])))
def skinny_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight^T + bias: x [M, K] with few rows, weight [N, K], bias [N] -> [M, N]."""
    return F.linear(x, weight, bias)


@op(out=lambda x, weight: x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.float32))
def skinny_logits(x: Tensor, weight: Tensor) -> Tensor:
    """`skinny_linear` without a bias, its sums left in float32."""
    return F.linear(x, weight).float()
