# SPDX-License-Identifier: BSD-3-Clause
"""The step plan of an encoder as the device reads it: every array in one buffer, copied once."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..engine.batch import Int32Array
from ..engine.encode_batch import EncodeBatch
from ..models import ATTENTIONS, AttentionMaps, EncoderMetadata
from .transfer import to_device


@dataclass(frozen=True, slots=True)
class EncodeStep:
    """T tokens; tensors int32 on the device."""

    metadata: EncoderMetadata
    tokens: Tensor | None
    """[T]"""
    token_types: Tensor | None
    """[T]; None: all 0"""


def padded(batch: EncodeBatch, num_sequences: int, num_tokens: int) -> EncodeBatch:
    """A batch of tokens, filled up with sequences that have none, and tokens that belong to none."""
    assert batch.tokens is not None
    fill, more = num_tokens - len(batch.tokens), num_sequences - len(batch.lengths)
    return replace(
        batch,
        lengths=np.pad(batch.lengths, (0, more)),
        tokens=np.pad(batch.tokens, (0, fill)),
        token_types=None if batch.token_types is None else np.pad(batch.token_types, (0, fill)),
        ia3_rows=None if batch.ia3_rows is None else np.pad(batch.ia3_rows, (0, more)),
    )


def place(
    batch: EncodeBatch, device: torch.device, max_seqlen: int | None = None, out: Tensor | None = None
) -> tuple[EncodeStep, Tensor]:
    """The batch by one copy; and the memory that holds all of its arrays.

    Args:
        max_seqlen: what kernels take for the longest sequence; None takes the batch's own.
        out: int32 memory for the arrays; None allocates it.
    """
    wanted: dict[str, Int32Array | None] = {
        **_positions(batch),
        "tokens": batch.tokens,
        "token_types": batch.token_types,
        "ia3_rows": _ia3_rows(batch),
    }
    arrays = {name: array for name, array in wanted.items() if array is not None}
    packed = to_device(list(arrays.values()), device, out)
    sizes = [array.size for array in arrays.values()]
    placed = dict(zip(arrays, torch.split(packed, sizes), strict=True))
    longest = int(batch.lengths.max()) if max_seqlen is None else max_seqlen
    metadata = EncoderMetadata(
        placed["positions"], placed["cu_seqlens"], longest, _maps(batch), placed.get("ia3_rows")
    )
    return EncodeStep(metadata, placed.get("tokens"), placed.get("token_types")), packed


def _maps(batch: EncodeBatch) -> AttentionMaps | None:
    """Of the inputs that ask for them."""
    ends = np.cumsum(batch.lengths).tolist()
    spans = [
        (end - int(length), end)
        for end, length, outputs in zip(ends, batch.lengths, batch.outputs, strict=False)
        if ATTENTIONS in outputs
    ]
    return AttentionMaps(spans) if spans else None


def _positions(batch: EncodeBatch) -> dict[str, Int32Array]:
    """Where sequences begin, and every token's place in its own; tokens behind all sequences are at 0."""
    bounds = np.concatenate(([0], np.cumsum(batch.lengths))).astype(np.int32)
    positions = np.zeros(_num_tokens(batch), np.int32)
    positions[: bounds[-1]] = np.arange(bounds[-1]) - np.repeat(bounds[:-1], batch.lengths)
    return {"positions": positions, "cu_seqlens": bounds}


def _ia3_rows(batch: EncodeBatch) -> Int32Array | None:
    """[T]; tokens behind all sequences have no task."""
    if batch.ia3_rows is None:
        return None
    rows = np.repeat(batch.ia3_rows, batch.lengths)
    return np.pad(rows, (0, _num_tokens(batch) - len(rows)))


def _num_tokens(batch: EncodeBatch) -> int:
    """Those behind all sequences included."""
    return int(batch.lengths.sum()) if batch.tokens is None else len(batch.tokens)
