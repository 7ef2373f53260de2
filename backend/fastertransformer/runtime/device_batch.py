# SPDX-License-Identifier: BSD-3-Clause
"""The step plan as the device reads it: every array of a Batch in one buffer, copied once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..engine.batch import Batch, Int32Array
from ..models import StepMetadata


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """T tokens of B sequences, S of which sample; all tensors int32 on the device."""

    token_slots: Tensor
    """[T] row of the token pool of each token."""
    last_tokens: Tensor
    """[S] index into T of the token whose logits are sampled."""
    metadata: StepMetadata


def token_arrays(batch: Batch, block_size: int) -> dict[str, Int32Array]:
    """Per-token and per-sequence arrays of a step, computed on the host."""
    rows = np.repeat(np.arange(len(batch.slots)), batch.query_lens)
    cu_seqlens_q = np.concatenate(([0], np.cumsum(batch.query_lens)))
    positions = np.arange(batch.num_tokens) + (batch.num_computed - cu_seqlens_q[:-1])[rows]
    blocks = batch.block_tables[rows, positions // block_size]
    seq_lens = batch.num_computed + batch.query_lens
    arrays = {
        "positions": positions,
        "slot_mapping": blocks * block_size + positions % block_size,
        "block_tables": batch.block_tables.ravel(),
        "cu_seqlens_q": cu_seqlens_q,
        "seq_lens": seq_lens,
        "work": ops.attention_work(batch.query_lens, seq_lens).ravel(),
        "token_slots": batch.slots[rows],
        "last_tokens": cu_seqlens_q[1:][batch.sample_rows] - 1,
    }
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def to_device(batch: Batch, block_size: int, device: torch.device, workspace: Tensor) -> DeviceBatch:
    """One host-to-device copy; on the CPU none."""
    arrays = token_arrays(batch, block_size)
    packed = torch.from_numpy(np.concatenate(list(arrays.values()))).to(device, non_blocking=True)
    parts = dict(zip(arrays, torch.split(packed, [len(array) for array in arrays.values()]), strict=True))
    return DeviceBatch(
        token_slots=parts["token_slots"],
        last_tokens=parts["last_tokens"],
        metadata=StepMetadata(
            positions=parts["positions"],
            slot_mapping=parts["slot_mapping"],
            block_tables=parts["block_tables"].view(batch.block_tables.shape),
            cu_seqlens_q=parts["cu_seqlens_q"],
            seq_lens=parts["seq_lens"],
            work=parts["work"].view(2, -1),
            workspace=workspace,
            max_seqlen_q=int(batch.query_lens.max()),
            max_seqlen_k=int(arrays["seq_lens"].max()),
        ),
    )
