# SPDX-License-Identifier: BSD-3-Clause
"""Matrix products with few rows: reading the weights once is all that matters."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import op

SKINNY_ROWS = {torch.float32: 16, torch.float16: 32, torch.bfloat16: 4}
"""Up to how many rows the kernel beats torch's product, measured on a CPU with AVX-512: torch has
matrix instructions for bfloat16, and none for float16."""


@op(out=lambda x, weight, bias: x.new_empty((x.shape[0], weight.shape[0])))
def skinny_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight^T + bias: x [M, K] with few rows, weight [N, K], bias [N] -> [M, N]."""
    return F.linear(x, weight, bias)
