# SPDX-License-Identifier: BSD-3-Clause
"""The verb `bench`: its options, and what they ask for."""

from pathlib import Path
from typing import Annotated

import typer

from ..console import output
from ..repository import parse_parameters
from .compare import check_peers, compare
from .peers import PEERS
from .profiling import profile
from .report import headline, profile_line, profile_table, table, write_json
from .setup import prepared
from .shapes import SHAPES
from .workload import Workload, parse_workloads


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
    workload: Annotated[
        str,
        typer.Option(
            help="More rows, REQUESTSxINPUT/OUTPUT: 1x1024/1 is a prefill, 512x512/128 is throughput.",
            show_default=False,
        ),
    ] = "",
    data_type: Annotated[str, typer.Option(help="fp32, fp16, bf16 or auto.")] = "auto",
    peers: Annotated[
        list[str] | None,
        typer.Option("--peer", help=f"{', '.join(PEERS)}: in the same run; repeatable.", show_default=False),
    ] = None,
    through_triton: Annotated[
        bool, typer.Option("--through-triton", help="Also measure gRPC streaming through a tritonserver.")
    ] = False,
    profiled: Annotated[
        bool, typer.Option("--profile", help="Show where the time goes instead, kernel by kernel.")
    ] = False,
    repetitions: Annotated[int, typer.Option(help="Runs of each; medians are reported.")] = 3,
    num_threads: Annotated[int, typer.Option(help="CPU threads of every system; 0: all cores.")] = 0,
    parameter: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of config.pbtxt; repeatable.", show_default=False)
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures here, too.", show_default=False)
    ] = None,
) -> None:
    """Measure how fast a model generates, alone and next to its peers.

    Every system gets the same random prompts, greedy, in the same data type with the same threads. On a CPU
    they take turns, so that a busy machine hurts all alike; on a GPU each has it for itself.
    """
    batches = [int(size) for size in batch.split(",") if size]
    sizes = [(size, input_len, output_len) for size in batches] + parse_workloads(workload)
    check_peers(peers or [])
    given = {"data_type": data_type, "num_threads": str(num_threads), **parse_parameters(parameter or [])}
    with prepared(path, shape, dummy_weights, given, batches) as setup:
        workloads = [Workload(*of_one, setup.spec.vocab_size) for of_one in sizes]
        figures: dict[str, object]
        output.print(headline(setup.machine), highlight=False)
        if profiled:
            profiles = profile(setup, workloads)
            figures = {"profiles": profiles}
            for entry in profiles:
                output.print(profile_line(entry), profile_table(entry), sep="\n", highlight=False)
        else:
            rows = compare(setup, workloads, peers or [], through_triton, repetitions)
            figures = {"rows": rows}
            output.print(table(rows))
        if json is not None:
            write_json(json, setup.machine, {"shape": shape, **setup.parameters}, **figures)
