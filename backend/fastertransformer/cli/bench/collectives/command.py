# SPDX-License-Identifier: BSD-3-Clause
"""The verb `bench-collectives`."""

import re
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from ....config import resolve_data_type
from ....errors import FasterTransformerError
from ....runtime.device import choose_device
from ...console import errors, output
from ..machine import device_name
from ..report import plain_table, write_json
from .job import Job, SumRow
from .launch import run_ranks

_FORM = re.compile(r"(\d+)([KM]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}
_PACK_BYTES = 16
_SIZES = "8K,16K,32K,64K,128K,256K,512K,1M,4M,16M,64M"


def bench_collectives(
    ranks: Annotated[str, typer.Option(help="Numbers of ranks, each on a GPU of its own.")] = "2",
    size: Annotated[str, typer.Option(help="Bytes that every rank brings; K and M are binary.")] = _SIZES,
    data_type: Annotated[str, typer.Option(help="fp32, fp16, bf16 or auto.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    share_gpus: Annotated[
        bool, typer.Option("--share-gpus", help="More ranks than GPUs: checks sums; times then say nothing.")
    ] = False,
    norm: Annotated[
        bool,
        typer.Option("--norm", help="Add each sum to a residual and normalise that: fused, and behind it."),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for each number of ranks.")] = 120,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures here, too.", show_default=False)
    ] = None,
) -> None:
    """Time sums over ranks, in every way that an engine may take, and check each of them.

    On GPUs: one shot and two shots through the GPUs' own memory, and NCCL, each many times in one CUDA graph.
    """
    chosen = choose_device(device)
    sizes, counts = parse_sizes(size), _parse_ranks(ranks)
    data_type = resolve_data_type(data_type, chosen.type)
    with tempfile.TemporaryDirectory(prefix="collectives-") as folder:
        figures = Path(folder, "figures")
        try:
            for count in counts:
                job = Job(
                    ranks=count,
                    sizes=sizes,
                    data_type=data_type,
                    device=chosen.type,
                    share_gpus=share_gpus,
                    norm=norm,
                    figures=str(figures),
                )
                with errors.status(f"{count} ranks"):
                    run_ranks(job, timeout)
        finally:  # what was measured outlives a failure
            rows = _read(figures)
            machine = {"device": chosen.type, "device_name": device_name(chosen), "data_type": data_type}
            output.print(machine["device_name"], sums_table(rows), sep="\n", highlight=False)
            if json is not None:
                write_json(json, machine, {"ranks": ranks, "size": size, "norm": norm}, sums=rows)


def _read(figures: Path) -> list[SumRow]:
    lines = figures.read_bytes().splitlines() if figures.exists() else []
    return [msgspec.json.decode(line, type=SumRow) for line in lines]


def parse_sizes(text: str) -> tuple[int, ...]:
    """`8K,64M` in bytes.

    Raises:
        FasterTransformerError: a part has another form or is no positive multiple of 16.
    """
    sizes = []
    for part in filter(None, text.split(",")):
        match = _FORM.fullmatch(part.strip())
        size = int(match[1]) * _UNITS[match[2]] if match else 0
        if size == 0 or size % _PACK_BYTES:
            raise FasterTransformerError(
                f"--size {part!r} is not a positive multiple of {_PACK_BYTES}, as 4096, 8K or 64M"
            )
        sizes.append(size)
    return tuple(sizes)


def _parse_ranks(text: str) -> list[int]:
    counts = [int(part) if part.strip().isdigit() else 0 for part in text.split(",") if part]
    if min(counts, default=0) < 2:
        raise FasterTransformerError(f"--ranks is {text!r}; give numbers from 2 on, as 2,4,8")
    return counts


def sums_table(rows: list[SumRow]) -> Table:
    """What a person reads, in at most 110 columns: a line for each size, a pair of columns for each way."""
    names = list(dict.fromkeys(row.way for row in rows))
    made = plain_table("ranks x size", *(heading for name in names for heading in (f"{name} us", "GB/s")))
    if any(row.shares_gpu for row in rows):
        made.caption = "ranks take turns on a GPU: times say nothing"
    by_place = {(row.ranks, row.num_bytes, row.way): row for row in rows}
    for ranks, num_bytes in dict.fromkeys((row.ranks, row.num_bytes) for row in rows):
        found = [by_place.get((ranks, num_bytes, name)) for name in names]
        cells = [(f"{row.us:.2f}", f"{row.gb_per_second:.1f}") if row else ("", "") for row in found]
        made.add_row(f"{ranks} x {readable(num_bytes)}", *(cell for pair in cells for cell in pair))
    return made


def readable(num_bytes: int) -> str:
    """As `parse_sizes` reads it."""
    unit = next(unit for unit in ("M", "K", "") if num_bytes % _UNITS[unit] == 0)
    return f"{num_bytes // _UNITS[unit]}{unit}"
