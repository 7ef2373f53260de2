# SPDX-License-Identifier: BSD-3-Clause
"""One row of several."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import op


@op(
    out=lambda tokens, cu_seqlens, how: tokens.new_empty(
        (len(cu_seqlens) - 1, tokens.shape[1]), dtype=torch.float32
    )
)
def pool(tokens: Tensor, cu_seqlens: Tensor, how: str) -> Tensor:
    """Rows of a sequence put together, of one without rows 0: tokens [T, H] -> [B, H] float32.

    Args:
        cu_seqlens: [B + 1] int32, where each sequence begins.
        how: mean, sum or max.
    """
    # segment_reduce goes through memory column by column on CPUs.
    rows = torch.arange(len(tokens), dtype=cu_seqlens.dtype, device=tokens.device)
    return F.embedding_bag(rows, tokens.float(), cu_seqlens, mode=how, include_last_offset=True)
