# SPDX-License-Identifier: BSD-3-Clause
"""Figures of the steps as tables: for the screen, and in Markdown for docs/performance.md."""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from fastertransformer.cli.bench.collectives.command import readable
from fastertransformer.cli.bench.report import plain_table

from .run import Outcome

Figures = dict[str, Any]
_WIDEST = 50
"""Characters of a cell on the screen."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def rich(self) -> RichTable:
        made = plain_table(*self.headings)
        made.title = self.title
        made.title_justify = "left"
        for row in self.rows:
            made.add_row(*(textwrap.shorten(cell, _WIDEST, placeholder=" …") for cell in row))
        return made

    def markdown(self) -> str:
        lines = [self.headings, ("---",) * len(self.headings), *self.rows]
        return f"{self.title}:\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read_figures(outcomes: list[Outcome], folder: Path) -> dict[str, Figures]:
    """What the steps wrote, by their names for it; a step that failed may have written less, or nothing."""
    paths = {
        outcome.step.figures: folder / f"{outcome.step.figures}.json"
        for outcome in outcomes
        if outcome.step.figures
    }
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def make_tables(outcomes: list[Outcome], figures: dict[str, Figures]) -> list[Table]:
    """Those for which there are figures; steps come last."""
    tables = [
        sums_table("Sum over ranks", "sums-", figures),
        sums_table("Sum over ranks, residual and norm behind it", "norms-", figures),
        models_table(outcomes, figures),
        steps_table(outcomes),
    ]
    return [table for table in tables if table.rows]


def sums_table(what: str, prefix: str, figures: dict[str, Figures]) -> Table:
    """Microseconds by size; a column for each number of ranks and way, where ranks share no GPU.

    Args:
        prefix: of the figures' names.
    """
    contents = [content for name, content in figures.items() if name.startswith(prefix)]
    rows = [row for content in contents for row in content.get("sums", ()) if not row["shares_gpu"]]
    columns = list(dict.fromkeys((row["ranks"], row["way"]) for row in rows))
    times = {(row["num_bytes"], row["ranks"], row["way"]): f"{row['us']:.1f}" for row in rows}
    return Table(
        f"{what}, microseconds in a CUDA graph",
        ("bytes", *(f"{ranks} ranks, {way}" for ranks, way in columns)),
        [
            (readable(size), *(times.get((size, *column), "") for column in columns))
            for size in sorted({row["num_bytes"] for row in rows})
        ],
    )


def models_table(outcomes: list[Outcome], figures: dict[str, Figures]) -> Table:
    """A row for each model and mesh, three figures for each batch."""
    measured = {
        outcome.step.labels: {row["batch"]: row for row in figures[outcome.step.figures]["rows"]}
        for outcome in outcomes
        if outcome.step.labels[0] and outcome.step.figures in figures
    }
    batches = sorted({batch for by_batch in measured.values() for batch in by_batch})
    return Table(
        "Models, milliseconds per token (speed-up over one rank, share of what reading memory allows)",
        ("model", "T x P", *(f"batch {batch}" for batch in batches)),
        [
            (
                name,
                mesh,
                *(
                    _cell(by_batch.get(batch), measured.get((name, "1 x 1"), {}).get(batch))
                    for batch in batches
                ),
            )
            for (name, mesh), by_batch in measured.items()
        ],
    )


def _cell(row: Figures | None, alone: Figures | None) -> str:
    if row is None:
        return ""
    speed_up = f"{alone['token_ms_p50'] / row['token_ms_p50']:.2f}x, " if alone else ""
    return f"{row['token_ms_p50']:.2f} ({speed_up}{row['share']:.0%})"


def steps_table(outcomes: list[Outcome]) -> Table:
    """All steps with what became of them."""
    return Table(
        "Steps",
        ("step", "GPUs", "seconds", "result", "said"),
        [
            (
                outcome.step.name,
                str(outcome.step.gpus),
                f"{outcome.seconds:.0f}",
                outcome.status,
                outcome.detail.replace("|", "/"),
            )
            for outcome in outcomes
        ],
    )
