# SPDX-License-Identifier: BSD-3-Clause
"""Figures for people and for programs."""

from pathlib import Path

import msgspec
from msgspec import Struct
from rich.table import Table

from ...messages import EngineInfo
from .workload import Measurement, Workload

_GB = 1e9


class Row(Struct, frozen=True, kw_only=True):
    """One workload on one system."""

    system: str
    batch: int
    input_len: int
    output_len: int
    ttft_ms: float
    token_ms_p50: float
    token_ms_p99: float
    tokens_per_second: float
    step_gb: float | None = None
    """Weights and cached keys and values that a decode step reads, on average."""
    bandwidth_share: float | None = None
    """Of the measured read bandwidth, at the median time between tokens."""
    ratio: float | None = None
    """Our throughput over this system's, in this run."""
    equal_tokens: float | None = None
    """Share of the generated tokens, up to the first difference, that equal ours."""


def row(
    system: str, workload: Workload, run: Measurement, ours: Measurement, info: EngineInfo, bandwidth: float
) -> Row:
    """Compares with `ours`; the bytes are known for our own engine alone."""
    is_ours = run is ours
    step_bytes = info.step_bytes + info.kv_token_bytes * workload.batch * (
        workload.input_len + workload.output_len / 2
    )
    seconds = run.token_ms_p50 / 1e3
    return Row(
        system=system,
        batch=workload.batch,
        input_len=workload.input_len,
        output_len=workload.output_len,
        ttft_ms=run.ttft_ms,
        token_ms_p50=run.token_ms_p50,
        token_ms_p99=run.token_ms_p99,
        tokens_per_second=run.tokens_per_second,
        step_gb=step_bytes / _GB if is_ours else None,
        bandwidth_share=step_bytes / seconds / bandwidth if is_ours and seconds else None,
        ratio=None if is_ours else ours.tokens_per_second / run.tokens_per_second,
        equal_tokens=None if is_ours else equal_share(ours.tokens, run.tokens),
    )


def equal_share(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Greedy tokens are comparable up to the first difference of a row."""
    equal = 0
    for mine, other in zip(ours, theirs, strict=True):
        pairs = list(zip(mine, other, strict=True))
        differs = [i for i, (a, b) in enumerate(pairs) if a != b]
        equal += differs[0] if differs else len(pairs)
    return equal / sum(map(len, ours))


def table(rows: list[Row], bandwidth: float, num_threads: int) -> Table:
    """What a person reads."""
    title = f"{num_threads} threads; memory reads {bandwidth / _GB:.1f} GB/s"
    made = Table(title=title, caption="ratio: engine tokens/s over the system's, medians of one run")
    for name in (
        "system",
        "batch",
        "in",
        "out",
        "TTFT ms",
        "ms/token p50",
        "p99",
        "tokens/s",
        "GB/step",
        "of bandwidth",
        "ratio",
        "equal tokens",
    ):
        made.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for entry in rows:
        made.add_row(
            entry.system,
            str(entry.batch),
            str(entry.input_len),
            str(entry.output_len),
            f"{entry.ttft_ms:.0f}",
            f"{entry.token_ms_p50:.2f}",
            f"{entry.token_ms_p99:.2f}",
            f"{entry.tokens_per_second:.1f}",
            _optional(entry.step_gb, "{:.2f}"),
            _optional(entry.bandwidth_share, "{:.0%}"),
            _optional(entry.ratio, "{:.2f}"),
            _optional(entry.equal_tokens, "{:.0%}"),
        )
    return made


def write_json(path: Path, rows: list[Row], bandwidth: float, num_threads: int) -> None:
    """All figures of a run."""
    content = {"read_bandwidth": bandwidth, "num_threads": num_threads, "rows": rows}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)))


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
