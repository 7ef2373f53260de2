# SPDX-License-Identifier: BSD-3-Clause
"""What the encoder computes in a step, as the device reads it: the inputs of all sequences that start."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engine.batch import Admission, Batch, Int32Array
from ..models import EncoderMetadata
from .transfer import to_device, upload


@dataclass(frozen=True, slots=True)
class EncoderInputs:
    """E tokens, one input behind the other; int32 on the device."""

    tokens: Tensor
    """[E]"""
    slot_mapping: Tensor
    """[E] block * block_size + offset of the keys and values that decoders attend to"""
    metadata: EncoderMetadata
    replaced: tuple[Tensor, Tensor] | None
    """Indices into E [N] of what is no word, and its rows [N, width of the word table] float32."""


def encoder_inputs(batch: Batch, block_size: int, device: torch.device) -> EncoderInputs | None:
    """By one copy; None where no sequence starts."""
    starting = [admission for admission in batch.admissions if len(admission.encoder_tokens)]
    if not starting:
        return None
    lengths = np.array([len(admission.encoder_tokens) for admission in starting])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths)))
    positions = np.arange(len(rows)) - cu_seqlens[rows]
    starts = np.cumsum([0, *(len(admission.cross_blocks) for admission in starting)])
    blocks = np.concatenate([admission.cross_blocks for admission in starting])
    arrays = [
        np.concatenate([admission.encoder_tokens for admission in starting]),
        blocks[starts[rows] + positions // block_size] * block_size + positions % block_size,
        positions,
        cu_seqlens,
    ]
    ia3_rows = np.array([admission.ia3_row for admission in starting])
    if ia3_rows.any():
        arrays.append(ia3_rows[rows])
    packed = to_device([array.astype(np.int32) for array in arrays], device)
    tokens, slot_mapping, places, bounds, *more = torch.split(packed, [array.size for array in arrays])
    metadata = EncoderMetadata(places, bounds, int(lengths.max()), ia3_rows=next(iter(more), None))
    return EncoderInputs(tokens, slot_mapping, metadata, _replaced(arrays[0], starting, device))


def _replaced(
    tokens: Int32Array, starting: Sequence[Admission], device: torch.device
) -> tuple[Tensor, Tensor] | None:
    places = np.flatnonzero(tokens < 0)
    if not len(places):
        return None
    rows = np.concatenate([one.encoder_rows for one in starting if one.encoder_rows is not None])
    return upload(places, device), upload(rows, device)
