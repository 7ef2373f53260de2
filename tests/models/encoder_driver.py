# SPDX-License-Identifier: BSD-3-Clause
"""Plays the runner of an encoder: packed inputs through a model, whole or dealt to ranks."""

from collections.abc import Sequence

import numpy as np
import torch

from fastertransformer.models import EncoderMetadata, EncoderModel


def metadata_of(lengths: Sequence[int], ia3_rows: Sequence[int] | None = None) -> EncoderMetadata:
    """Args: ia3_rows: of each input."""
    return EncoderMetadata(
        positions=torch.cat([torch.arange(length) for length in lengths]).int(),
        cu_seqlens=torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32),
        max_seqlen=max(lengths),
        ia3_rows=None if ia3_rows is None else torch.tensor(np.repeat(ia3_rows, lengths), dtype=torch.int32),
    )


@torch.inference_mode()
def encode(
    stages: Sequence[EncoderModel],
    inputs: Sequence[Sequence[int]],
    outputs: Sequence[str],
    token_types: Sequence[Sequence[int]] | None = None,
    ia3_rows: Sequence[int] | None = None,
) -> dict[str, torch.Tensor]:
    """What all inputs together are encoded to, one behind the other."""
    lengths = [len(ids) for ids in inputs]
    metadata = metadata_of(lengths, ia3_rows)
    types = None if token_types is None else _packed(token_types)
    hidden = stages[0].embed(_packed(inputs), metadata.positions, types)
    for stage in stages:
        hidden = stage.forward(hidden, metadata)
    return {name: stages[-1].encode(name, hidden, metadata.cu_seqlens) for name in outputs}


def _packed(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.int32)
