# SPDX-License-Identifier: BSD-3-Clause
"""The verb `bench-kernels`."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from .... import ops
from ....config import resolve_data_type
from ....errors import FasterTransformerError
from ....models.data_types import DTYPES
from ....ops.registry import OPS
from ....runtime.device import choose_device
from ...console import errors, output
from ..machine import measure_machine
from ..report import headline, optional, plain_table, write_json
from .cases import Sizes, all_cases, spec_of_shape
from .measure import KernelRow, measure_case

_EAGER = "*"


def bench_kernels(
    shapes: Annotated[
        str, typer.Option("--shape", help="Models whose sizes are taken.")
    ] = "llama-2-7b,llama-3-8b,gpt-j-6b",
    only: Annotated[
        str, typer.Option("--op", help="These ops alone, separated by commas.", show_default=False)
    ] = "",
    rows: Annotated[str, typer.Option(help="Rows of products and of logits.")] = "1,2,4,8,16,32,64",
    tokens: Annotated[str, typer.Option(help="Tokens of what is done to each on its own.")] = "1,64,1024",
    decode: Annotated[
        str, typer.Option(help="SEQUENCESxKEYS of decode attention; the last one with more head sizes.")
    ] = "1x256,1x1024,1x4096,8x1024,64x256,256x256,64x1024",
    prefill: Annotated[
        str, typer.Option(help="PROMPTSxTOKENS of what is for prompts.")
    ] = "1x128,1x1024,1x2048,8x1024",
    data_type: Annotated[str, typer.Option(help="fp32, fp16, bf16 or auto.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    num_threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures here, too.", show_default=False)
    ] = None,
) -> None:
    """Time every op in the sizes of real models: its kernel, and torch beside it.

    Arguments are random and rotate, so that no buffer is found in a cache. On a GPU the launches of a case
    follow each other in one CUDA graph.
    """
    chosen_device = choose_device(device)
    data_type = resolve_data_type(data_type, chosen_device.type)
    sizes = Sizes(
        rows=_numbers(rows), tokens=_numbers(tokens), decode=_pairs(decode), prefill=_pairs(prefill)
    )
    specs = [spec_of_shape(name) for name in shapes.split(",")]
    cases = all_cases(specs, DTYPES[data_type].itemsize, sizes)
    wanted = _check_ops(only)
    threads = num_threads or len(os.sched_getaffinity(0))
    ops.set_num_threads(threads)
    machine = measure_machine(chosen_device, data_type, threads)
    chosen = [case for case in cases if case.op in wanted]
    measured: list[KernelRow] = []
    try:
        for case in track(chosen, console=errors, transient=True):
            measured.append(measure_case(case, machine))  # noqa: PERF401 - what was measured outlives a failure
    finally:
        output.print(headline(machine), kernel_table(measured), sep="\n", highlight=False)
        if json is not None:
            write_json(json, machine, {"shape": shapes}, kernels=measured)
    if missing := sorted(wanted - {case.op for case in cases}):
        errors.print(f"no case for {', '.join(missing)}")


def kernel_table(rows: list[KernelRow]) -> Table:
    """What a person reads, in at most 110 columns."""
    made = plain_table("op", "us", "GB/s", "TFLOP/s", "of ceiling", "torch us", "speed-up")
    if any(row.torch_is_eager for row in rows):
        made.caption = f"{_EAGER} not in a graph: it reads back from the device"
    for row in rows:
        made.add_row(
            f"{row.op} {row.sizes}",
            optional(row.us, "{:.2f}"),
            optional(row.gb_per_second, "{:.1f}"),
            optional(row.tflops or None, "{:.2f}"),
            optional(row.share, "{:.0%} " + row.ceiling),
            f"{row.torch_us:.2f}{_EAGER if row.torch_is_eager else ''}",
            optional(row.speed_up, "{:.2f}"),
        )
    return made


def _check_ops(only: str) -> set[str]:
    """All ops, or those that were named."""
    names = set(filter(None, only.split(",")))
    if unknown := sorted(names - set(OPS)):
        raise FasterTransformerError(f"--op {', '.join(unknown)} is unknown; ops are {', '.join(OPS)}")
    return names or set(OPS)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _pairs(text: str) -> list[tuple[int, int]]:
    return [(int(first), int(second)) for first, second in (p.split("x") for p in text.split(",") if p)]
