# SPDX-License-Identifier: BSD-3-Clause
"""The verb `bench`: its options, and what they ask for."""

from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import asdict, replace

from ...errors import FasterTransformerError
from ..console import output
from ..repository import parse_parameters
from .compare import Schedule, check_peers, compare
from .encoding_report import encoding_table
from .kind import Kind
from .peers import PEERS
from .profiling import profile
from .report import headline, profile_line, profile_table, table, write_json
from .setup import Setup, prepared
from .shapes import SHAPES
from .workload import Sizes, Workload, parse_workloads

_PEERS = list(dict.fromkeys(name for peers in PEERS.values() for name in peers))


def bench(
    path: Annotated[
        Path | None, typer.Argument(help="Hugging Face folder or GGUF file.", show_default=False)
    ] = None,
    shape: Annotated[
        str,
        typer.Option(help=f"Random weights in these sizes: {', '.join(SHAPES)}.", show_default=False),
    ] = "",
    dummy_weights: Annotated[
        bool, typer.Option("--dummy-weights", help="Random weights for PATH/config.json, too.")
    ] = False,
    batch: Annotated[str, typer.Option(help="Numbers of requests that arrive and run together.")] = "1,8",
    input_len: Annotated[int, typer.Option(help="Prompt tokens of each request.")] = 128,
    output_len: Annotated[int, typer.Option(help="Generated tokens of each request.")] = 32,
    beam_width: Annotated[int, typer.Option(help="Beams of each request; 1 is greedy.")] = 1,
    workload: Annotated[
        str,
        typer.Option(
            help="More rows, REQUESTSxINPUT/OUTPUT: 1x1024/1 is a prefill, 512x512/128 is throughput, "
            "32x16-128/8-64 of mixed lengths; of an encoder REQUESTSxINPUT.",
            show_default=False,
        ),
    ] = "",
    data_type: Annotated[str, typer.Option(help="fp32, fp16, bf16 or auto.")] = "auto",
    peers: Annotated[
        list[str] | None,
        typer.Option("--peer", help=f"{', '.join(_PEERS)}: in the same run; repeatable.", show_default=False),
    ] = None,
    through_triton: Annotated[
        bool, typer.Option("--through-triton", help="Also measure gRPC streaming through a tritonserver.")
    ] = False,
    profiled: Annotated[
        bool, typer.Option("--profile", help="Show where the time goes instead, kernel by kernel.")
    ] = False,
    repetitions: Annotated[int, typer.Option(help="Runs of each; medians are reported.")] = 3,
    pause: Annotated[
        float,
        typer.Option(min=0, help="Seconds of rest before each run: long prompts in a row make a GPU slower."),
    ] = 0,
    num_threads: Annotated[int, typer.Option(help="CPU threads of every system; 0: all cores.")] = 0,
    parameter: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of config.pbtxt; repeatable.", show_default=False)
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures here, too.", show_default=False)
    ] = None,
) -> None:
    """Measure how fast a model generates or encodes, alone and next to its peers.

    Every system gets the same random prompts, greedy, in the same data type with the same threads. On a CPU
    they take turns, so that a busy machine hurts all alike; on a GPU each has it for itself.
    """
    batches = [int(size) for size in batch.split(",") if size]
    sizes = [Sizes(size, input_len, output_len) for size in batches]
    given = {"data_type": data_type, "num_threads": str(num_threads), **parse_parameters(parameter or [])}
    more = parse_workloads(workload)
    with prepared(path, shape, dummy_weights, given, [size * beam_width for size in batches]) as setup:
        check_peers(peers or [], setup.kind, through_triton)
        workloads = _workloads(sizes, more, beam_width, setup)
        figures: dict[str, object]
        output.print(headline(setup.machine), highlight=False)
        if profiled:
            profiles = profile(setup, workloads)
            figures = {"profiles": profiles}
            for entry in profiles:
                output.print(profile_line(entry), profile_table(entry), sep="\n", highlight=False)
        else:
            rows: list[Any] = compare(
                setup, workloads, peers or [], through_triton, Schedule(repetitions, pause)
            )
            figures = {"rows": rows}
            output.print(encoding_table(rows) if setup.kind is Kind.ENCODER else table(rows))
        if json is not None:
            write_json(json, setup.machine, {"shape": shape, "pause": pause, **setup.parameters}, **figures)


def _workloads(sizes: list[Sizes], more: list[Sizes], beam_width: int, setup: Setup) -> list[Workload]:
    """Raises: FasterTransformerError: a workload that this kind of model cannot have."""
    encodes = setup.kind is Kind.ENCODER
    if encodes:
        sizes = [replace(of_one, output_len=0) for of_one in sizes]
    for of_one in more:
        if bool(of_one.output_len) is encodes:
            form = (
                "REQUESTSxINPUT, since it encodes" if encodes else "REQUESTSxINPUT/OUTPUT, since it generates"
            )
            raise FasterTransformerError(f"workloads of this model are of the form {form}")
        if of_one.shortest_output and beam_width > 1:
            raise FasterTransformerError("beams are measured with outputs of one length")
    return [
        Workload(**asdict(of_one), vocab_size=_vocab_size(setup), beam_width=beam_width)
        for of_one in [*sizes, *more]
    ]


def _vocab_size(setup: Setup) -> int:
    """Of what the model reads."""
    spec = setup.spec if setup.spec.encoder is None else setup.spec.encoder
    return spec.vocab_size
