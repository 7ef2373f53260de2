# SPDX-License-Identifier: BSD-3-Clause
"""Figures for people and for programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich import box
from rich.table import Table

from .floors import Floors
from .machine import Machine
from .profiling import Profile
from .workload import Measurement, Workload

GB = 1e9
TFLOP = 1e12
_SHOWN_KERNELS = 20
_NAME_WIDTH = 70
"""Of kernels, whose names would leave no room for the figures."""


class ComparedRow(Struct, frozen=True, kw_only=True):
    """One workload on one system, whatever the model does."""

    system: str
    workload: str
    batch: int
    input_len: int
    """Of the longest."""
    total_ms: float
    tokens_per_second: float
    """Generated, or of an encoder's inputs without padding."""
    ceiling: str
    """What bounds this workload: see Floors.share."""
    share: float
    """Of the measured ceiling."""
    ratio: float | None = None
    """Our throughput over this system's, in this run."""


class Row(ComparedRow, frozen=True, kw_only=True):
    """Of a model that generates."""

    beam_width: int
    output_len: int
    """Of the longest."""
    ttft_ms: float
    token_ms_p50: float
    token_ms_p99: float
    step_gb: float
    """Weights and cached keys and values that a decode step reads, on average."""
    equal_tokens: float | None = None
    """Share of the generated tokens, up to the first difference, that equal ours."""


def row(
    system: str,
    workload: Workload,
    run: Measurement,
    ours: Measurement,
    floors: Floors,
    same_weights: bool,
) -> Row:
    """Compares with `ours`; tokens where the weights are the same."""
    is_ours = run is ours
    ceiling, share = floors.share(workload, run)
    return Row(
        system=system,
        workload=str(workload),
        batch=workload.batch,
        beam_width=workload.beam_width,
        input_len=workload.input_len,
        output_len=workload.output_len,
        ttft_ms=run.ttft_ms,
        token_ms_p50=run.token_ms_p50,
        token_ms_p99=run.token_ms_p99,
        tokens_per_second=run.tokens_per_second,
        total_ms=run.total_ms,
        step_gb=floors.step_bytes(workload) / GB,
        ceiling=ceiling,
        share=share,
        ratio=None if is_ours else ours.tokens_per_second / run.tokens_per_second,
        equal_tokens=equal_share(ours.tokens, run.tokens) if same_weights and not is_ours else None,
    )


def equal_share(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Greedy tokens are comparable up to the first difference of a row."""
    equal = 0
    for mine, other in zip(ours, theirs, strict=True):
        pairs = list(zip(mine, other, strict=True))
        differs = [i for i, (a, b) in enumerate(pairs) if a != b]
        equal += differs[0] if differs else len(pairs)
    return equal / sum(map(len, ours))


def headline(machine: Machine) -> str:
    """The machine and its ceilings."""
    return (
        f"{machine.device_name}, {machine.data_type}: reads {machine.read_bandwidth / GB:,.0f} GB/s, "
        f"multiplies {machine.matrix_rate / TFLOP:,.2f} TFLOP/s"
    )


def table(rows: list[Row]) -> Table:
    """What a person reads, in at most 110 columns."""
    headings = ("system", "workload", "TTFT ms", "ms/token", "p99", "tokens/s", "GB/step")
    made = plain_table(*headings, "of ceiling", "ratio", "equal")
    for entry in rows:
        made.add_row(
            entry.system,
            entry.workload,
            f"{entry.ttft_ms:.1f}",
            f"{entry.token_ms_p50:.3f}",
            f"{entry.token_ms_p99:.3f}",
            f"{entry.tokens_per_second:.1f}",
            f"{entry.step_gb:.2f}",
            f"{entry.share:.0%} {entry.ceiling}",
            optional(entry.ratio, "{:.2f}"),
            optional(entry.equal_tokens, "{:.0%}"),
        )
    return made


def profile_line(entry: Profile) -> str:
    """Where the time of a step goes, before kernels are told apart."""
    return (
        f"{entry.workload}: {entry.wall_us:,.1f} us a {entry.unit}; under "
        f"the profiler {entry.profiled_us:,.1f} us: busy {entry.busy_us:,.1f}, between kernels of a launch "
        f"{entry.gap_us:,.1f}, waiting for the host {entry.host_us:,.1f}"
    )


def profile_table(entry: Profile) -> Table:
    """The costliest kernels of one workload."""
    made = plain_table("kernel", f"calls/{entry.unit}", f"us/{entry.unit}", "share")
    for kernel in entry.kernels[:_SHOWN_KERNELS]:
        name = kernel.name if len(kernel.name) <= _NAME_WIDTH else kernel.name[: _NAME_WIDTH - 1] + "…"
        made.add_row(name, f"{kernel.calls:.1f}", f"{kernel.us:.1f}", f"{kernel.share:.1%}")
    return made


def plain_table(first: str, *headings: str) -> Table:
    """A table without lines; all but the first column are numbers."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column(first, overflow="ellipsis", no_wrap=True)
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def write_json(
    path: Path, machine: Machine | Mapping[str, str], parameters: Mapping[str, Any], **figures: Any
) -> None:
    """All figures of a run, and what they belong to."""
    content = {"machine": machine, "parameters": parameters, **figures}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)))


def optional(value: float | None, form: str) -> str:
    """Nothing for what was not measured."""
    return "" if value is None else form.format(value)
