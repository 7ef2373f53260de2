# SPDX-License-Identifier: BSD-3-Clause
"""Figures of models that encode, for people and for programs."""

import numpy as np
from rich.table import Table

from .floors import Floors
from .report import ComparedRow, optional, plain_table
from .workload import Encoding, Workload


class EncodingRow(ComparedRow, frozen=True, kw_only=True):
    """Of a model that encodes."""

    sentences_per_second: float
    cosine: float | None = None
    """Of an embedding and ours, the smallest."""


def encoding_row(
    system: str, workload: Workload, run: Encoding, ours: Encoding, floors: Floors, same_weights: bool
) -> EncodingRow:
    """Compares with `ours`; embeddings where the weights are the same."""
    is_ours = run is ours
    ceiling, share = floors.share(workload, run)
    seconds = run.total_ms / 1e3
    return EncodingRow(
        system=system,
        workload=str(workload),
        batch=workload.batch,
        input_len=workload.input_len,
        total_ms=run.total_ms,
        sentences_per_second=workload.batch / seconds,
        tokens_per_second=sum(workload.input_lens) / seconds,
        ceiling=ceiling,
        share=share,
        ratio=None if is_ours else run.total_ms / ours.total_ms,
        cosine=smallest_cosine(ours.embeddings, run.embeddings) if same_weights and not is_ours else None,
    )


def smallest_cosine(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Between the embeddings of the same input."""
    a, b = np.array(ours), np.array(theirs)
    products = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(products.min())


def encoding_table(rows: list[EncodingRow]) -> Table:
    """What a person reads, in at most 110 columns."""
    headings = (
        "system",
        "workload",
        "ms/batch",
        "sentences/s",
        "tokens/s",
        "of ceiling",
        "ratio",
        "cosine",
    )
    made = plain_table(*headings)
    for entry in rows:
        made.add_row(
            entry.system,
            entry.workload,
            f"{entry.total_ms:.1f}",
            f"{entry.sentences_per_second:.1f}",
            f"{entry.tokens_per_second:.0f}",
            f"{entry.share:.0%} {entry.ceiling}",
            optional(entry.ratio, "{:.2f}"),
            optional(entry.cosine, "{:.6f}"),
        )
    return made
