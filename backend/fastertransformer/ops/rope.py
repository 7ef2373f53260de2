# SPDX-License-Identifier: BSD-3-Clause
"""Rotary position embedding, alone and on the way into the cache."""

import torch
from torch import Tensor

from .kv_cache import kv_write
from .registry import op


@op(out=None)
def rope(q: Tensor, k: Tensor, positions: Tensor, cos_sin: Tensor, interleaved: bool) -> None:
    """Rotates the first R dimensions of every head by its position, in place. (Su et al., arXiv 2104.09864)

    Args:
        q: [T, N, D], k: [T, K, D]; may be strided views of one product.
        positions: [T] int32.
        cos_sin: [P, R] float32, cosines in the first half, sines in the second.
        interleaved: pairs are (2i, 2i + 1), as in GPT-J, instead of (i, i + R/2), as in GPT-NeoX.
    """
    rotary_dim = cos_sin.shape[1]
    cos, sin = cos_sin[positions.long()][:, None].chunk(2, -1)
    for heads in (q, k):
        part = heads[..., :rotary_dim]
        first, second = _pairs(part.float(), interleaved)
        turned = (first * cos - second * sin, second * cos + first * sin)
        joined = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
        part.copy_(joined)


@op(out=None)
def rope_kv_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    interleaved: bool,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
) -> None:
    """`rope`, then `kv_write`. Afterwards k holds anything: read q and the caches.

    Args:
        q: [T, N, D], rotated in place, also where slot_mapping is -1; the others as in `rope` and `kv_write`.
    """
    rope(q, k, positions, cos_sin, interleaved)
    kv_write(k, v, k_cache, v_cache, slot_mapping)


def add_to_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    cos_sin: Tensor | None,
    interleaved: bool,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
) -> None:
    """`rope_kv_write`, or `kv_write` where nothing turns: without cos_sin."""
    if cos_sin is None:
        kv_write(k, v, k_cache, v_cache, slot_mapping)
    else:
        rope_kv_write(q, k, v, positions, cos_sin, interleaved, k_cache, v_cache, slot_mapping)


def _pairs(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    if interleaved:
        return x[..., ::2], x[..., 1::2]
    first, second = x.chunk(2, -1)
    return first, second
