# SPDX-License-Identifier: BSD-3-Clause
"""The step plan as the device reads it: every array of a Batch in one buffer, copied once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..engine.batch import Batch, Cross, Int32Array
from ..models import CrossMetadata, StepMetadata
from .attention_rows import attention_rows
from .transfer import to_device, upload

NO_SLOT = -1
"""The slot of a row of nobody, and where its keys go: nothing is read or written for it."""
NOBODYS = {"slot_mapping": NO_SLOT, "sample_slots": NO_SLOT}
"""What tokens and rows of nobody have; 0 where nothing is said."""
_OF_TOKENS = ("positions", "slot_mapping", "token_slots", "ia3_rows")


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """T tokens of B sequences, S of which sample; all tensors int32 on the device."""

    token_slots: Tensor
    """[T] row of the token pool of each token."""
    last_tokens: Tensor
    """[S] index into T of the token whose logits are sampled."""
    sample_slots: Tensor
    """[S] row of the token pool and of the sampling table."""
    sample_positions: Tensor
    """[S] where the new token goes."""
    num_candidates: Tensor
    """[S] how many next tokens a beam gets; 0 for other rows."""
    max_candidates: int
    """No row gets more."""
    metadata: StepMetadata
    updates: Tensor | None = None
    """As of `token_updates`."""
    embeddings: tuple[Tensor, Tensor] | None = None
    """Indices into T [N] int64, and the rows [N, E] of these tokens in place of the word table's."""
    contexts: tuple[tuple[int, int], ...] = ()
    """[begin, end) in T of what is to be summed up."""

    @property
    def kept(self) -> Tensor | None:
        """`last_tokens`; None where every token samples, each in its place."""
        is_decode = self.metadata.max_seqlen_q == 1 and len(self.last_tokens) == len(self.token_slots)
        return None if is_decode else self.last_tokens


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """What plans need to know of the cache of this rank."""

    block_size: int
    num_kv_heads: int


class Limits(NamedTuple):
    """What kernels take for the largest of a step: a graph's are those of all steps that it may be."""

    max_seqlen_q: int
    max_seqlen_k: int
    max_encoder_len: int
    """0: there is no encoder."""
    max_candidates: int


def step_arrays(batch: Batch, layout: CacheLayout) -> dict[str, Int32Array]:
    """Per-token and per-sequence arrays of a step, computed on the host."""
    query_lens, block_size, num_kv_heads = batch.query_lens, layout.block_size, layout.num_kv_heads
    rows = np.arange(len(batch.slots), dtype=np.int32).repeat(query_lens)
    cu_seqlens_q = _bounds(query_lens)
    positions = np.arange(len(rows), dtype=np.int32)
    positions += (batch.num_computed - cu_seqlens_q[:-1]).repeat(query_lens)
    lengths = batch.num_computed + query_lens
    attended = attention_rows(batch, lengths, block_size)
    is_whole = attended.query_lens is query_lens
    return {
        "positions": positions,
        "slot_mapping": slot_mapping(batch.block_tables, rows, positions, block_size),
        "block_tables": attended.block_tables,
        "cu_seqlens_q": cu_seqlens_q if is_whole else _bounds(attended.query_lens),
        "seq_lens": attended.seq_lens,
        "work": ops.attention_work(attended.query_lens, attended.seq_lens, num_kv_heads),
        "token_slots": batch.slots.repeat(query_lens),
        "last_tokens": cu_seqlens_q[1:][batch.sample_rows] - 1,
        "sample_slots": batch.slots[batch.sample_rows],
        "sample_positions": lengths[batch.sample_rows],
        **_cross_arrays(batch.cross, rows, num_kv_heads),
        **({} if batch.ia3_rows is None else {"ia3_rows": batch.ia3_rows.repeat(query_lens)}),
        "num_candidates": num_candidates(batch),
    }


def slot_mapping(
    block_tables: Int32Array,
    rows: Int32Array,
    positions: Int32Array,
    block_size: int,
) -> Int32Array:
    """[T] where keys and values of every token lie; as prompts are long, in few passes."""
    column = positions // block_size
    mapping: Int32Array = block_tables.take(rows * block_tables.shape[1] + column)
    mapping -= column
    mapping *= block_size
    mapping += positions  # block * block_size + positions % block_size
    return mapping


def _bounds(lengths: Int32Array) -> Int32Array:
    """[B + 1] where each part begins, and where the last one ends."""
    bounds = np.zeros(len(lengths) + 1, np.int32)
    lengths.cumsum(out=bounds[1:])
    return bounds


def num_candidates(batch: Batch) -> Int32Array:
    """[S] how many next tokens a beam gets; 0 for other rows."""
    counts = np.zeros(len(batch.sample_rows), np.int32)
    if batch.beams is not None:
        counts[batch.beams.rows] = batch.beams.num_candidates
    return counts


def _cross_arrays(cross: Cross | None, rows: Int32Array, num_kv_heads: int) -> dict[str, Int32Array]:
    """Every token is a sequence of one query, whose last key is the encoder's last."""
    if cross is None:
        return {}
    seq_lens = cross.seq_lens[rows]
    return {
        "cross_block_tables": cross.block_tables[rows],
        "cross_seq_lens": seq_lens,
        "cross_cu_seqlens_q": np.arange(len(rows) + 1, dtype=np.int32),
        "cross_work": ops.attention_work(np.ones_like(seq_lens), seq_lens, num_kv_heads),
    }


def place(batch: Batch, layout: CacheLayout, workspace: Tensor, multiple: int = 1) -> DeviceBatch:
    """The batch beside `workspace`, by one copy.

    Args:
        multiple: of tokens, up to which more of them than that are filled up with those of nobody where a
            sequence computes several; not where there is an encoder.
    """
    arrays = step_arrays(batch, layout)
    if multiple > 1 and batch.cross is None and batch.num_tokens > max(multiple, len(batch.slots)):
        arrays |= _filled_up(arrays, multiple)
    limits = Limits(
        max_seqlen_q=int(batch.query_lens.max()),
        max_seqlen_k=int(arrays["seq_lens"].max()),
        max_encoder_len=0 if batch.cross is None else int(batch.cross.seq_lens.max()),
        max_candidates=0 if batch.beams is None else batch.beams.num_candidates,
    )
    updates = token_updates(batch)
    if updates is not None:
        arrays["updates"] = updates
    packed = to_device(list(arrays.values()), workspace.device)
    return device_batch(
        arrays, packed, workspace, limits, _embeddings(batch, workspace.device), batch.contexts
    )


def _filled_up(arrays: Mapping[str, Int32Array], multiple: int) -> dict[str, Int32Array]:
    """What every token has, behind those of the batch for tokens of nobody."""
    missing = -len(arrays["positions"]) % multiple
    return {
        name: np.concatenate((arrays[name], np.full(missing, NOBODYS.get(name, 0), np.int32)))
        for name in _OF_TOKENS
        if name in arrays
    }


def device_batch(
    arrays: Mapping[str, Int32Array],
    packed: Tensor,
    workspace: Tensor,
    limits: Limits,
    embeddings: tuple[Tensor, Tensor] | None = None,
    contexts: tuple[tuple[int, int], ...] = (),
) -> DeviceBatch:
    """The step that reads its arrays from `packed`, where they lie side by side in the order of `arrays`.

    Args:
        embeddings, contexts: as of DeviceBatch.
    """
    sizes = [array.size for array in arrays.values()]
    parts = {
        name: part if array.ndim == 1 else part.view(array.shape)
        for (name, array), part in zip(arrays.items(), packed.split_with_sizes(sizes), strict=True)
    }
    cross = None
    if "cross_seq_lens" in parts:
        cross = CrossMetadata(
            block_tables=parts["cross_block_tables"],
            seq_lens=parts["cross_seq_lens"],
            cu_seqlens_q=parts["cross_cu_seqlens_q"],
            work=parts["cross_work"],
            max_seqlen_k=limits.max_encoder_len,
        )
    metadata = StepMetadata(
        positions=parts["positions"],
        slot_mapping=parts["slot_mapping"],
        block_tables=parts["block_tables"],
        cu_seqlens_q=parts["cu_seqlens_q"],
        seq_lens=parts["seq_lens"],
        work=parts["work"],
        workspace=workspace,
        max_seqlen_q=limits.max_seqlen_q,
        max_seqlen_k=limits.max_seqlen_k,
        cross=cross,
        ia3_rows=parts.get("ia3_rows"),
    )
    return DeviceBatch(
        token_slots=parts["token_slots"],
        last_tokens=parts["last_tokens"],
        sample_slots=parts["sample_slots"],
        sample_positions=parts["sample_positions"],
        num_candidates=parts["num_candidates"],
        max_candidates=limits.max_candidates,
        metadata=metadata,
        updates=parts.get("updates"),
        embeddings=embeddings,
        contexts=contexts,
    )


def _embeddings(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor] | None:
    if batch.embeddings is None:
        return None
    return upload(batch.embeddings.tokens, device).long(), upload(batch.embeddings.rows, device)


def token_updates(batch: Batch) -> Int32Array | None:
    """[3, F] slots, positions and tokens that the host knows and the token pool does not; None for none."""
    fed = 0 if batch.feed is None else len(batch.feed.slots)
    count = sum(len(admission.tokens) for admission in batch.admissions) + fed
    if not count:
        return None
    begin, rows = 0, np.empty((3, count), np.int32)
    for admission in batch.admissions:
        end = begin + len(admission.tokens)
        rows[0, begin:end] = admission.slot
        rows[1, begin:end] = np.arange(end - begin, dtype=np.int32)
        rows[2, begin:end] = admission.tokens
        begin = end
    if batch.feed is not None:
        rows[:, begin:] = batch.feed.slots, batch.feed.positions, batch.feed.tokens
    return rows
