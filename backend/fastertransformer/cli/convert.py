# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer convert`: a checkpoint in the other format, Hugging Face's or FasterTransformer's."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from ..models.conversion import TARGETS, Conversion, convert_checkpoint
from ..models.data_types import DTYPES
from .console import errors, output


def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint that is read.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="Folder that is written.", show_default=False)],
    to: Annotated[
        str, typer.Option(help="fastertransformer (config.ini and <n>-gpu/*.bin) or huggingface.")
    ] = TARGETS[0],
    tensor_para_size: Annotated[
        int, typer.Option(help="Ranks that FasterTransformer's files are split for.", min=1)
    ] = 1,
    data_type: Annotated[str, typer.Option(help="fp32, fp16 or bf16; auto: the source's.")] = "auto",
) -> None:
    """Convert between Hugging Face's format and FasterTransformer's own.

    Every tensor is read once. What the other format has no place for is refused.
    """
    _one_of("--to", to, TARGETS)
    _one_of("--data-type", data_type, ("auto", *DTYPES))
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task(f"converting {source.name}", total=None)
        done = convert_checkpoint(
            source,
            target,
            to,
            tensor_para_size,
            data_type,
            lambda read, total: progress.update(task, completed=read, total=total),
        )
    output.print(_facts(done))


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(allowed)}", param_hint=option)


def _facts(done: Conversion) -> Table:
    table = Table(title=f"{done.folder} is written", show_header=False)
    rows = {
        "from": done.source_type,
        "to": done.target_type,
        "data type": done.data_type,
        "tensors": str(done.num_tensors),
        "parameters": f"{done.num_parameters:,}",
        "copied": ", ".join(done.copied) or "nothing",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
