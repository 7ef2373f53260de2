# SPDX-License-Identifier: BSD-3-Clause
"""The verb `bench`: chooses systems and workloads, runs them in turn, reports."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from ... import config as configuration
from ...errors import ModelLoadError
from ..checkpoint import hugging_face_folder
from ..console import errors, output
from ..serve import parse_parameters, resolve_data_type
from .bandwidth import read_bandwidth
from .peers import PEERS
from .report import Row, row, table, write_json
from .systems import EngineSystem, System, engine, peer, triton
from .workload import Measurement, Workload, median

OURS = "engine"


def bench(
    path: Annotated[Path, typer.Argument(help="Hugging Face folder or GGUF file.", show_default=False)],
    batch: Annotated[str, typer.Option(help="Numbers of requests that arrive together.")] = "1,8",
    input_len: Annotated[int, typer.Option(help="Prompt tokens of each request.")] = 128,
    output_len: Annotated[int, typer.Option(help="Generated tokens of each request.")] = 32,
    data_type: Annotated[str, typer.Option(help="fp32, fp16, bf16 or auto.")] = "auto",
    peers: Annotated[
        list[str] | None,
        typer.Option("--peer", help="hf or ctranslate2, in the same run; repeatable.", show_default=False),
    ] = None,
    through_triton: Annotated[
        bool, typer.Option("--through-triton", help="Also measure gRPC streaming through a tritonserver.")
    ] = False,
    repetitions: Annotated[int, typer.Option(help="Runs of each, in turn; medians are reported.")] = 3,
    num_threads: Annotated[int, typer.Option(help="CPU threads of every system; 0: all cores.")] = 0,
    parameter: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of config.pbtxt; repeatable.", show_default=False)
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures here, too.", show_default=False)
    ] = None,
) -> None:
    """Measure how fast a checkpoint generates, alone and next to its peers.

    Every system gets the same random prompts, greedy, in the same data type with the same threads. They
    take turns, so that a busy machine hurts all alike; only ratios of one run mean much on a shared machine.
    """
    threads = num_threads or len(os.sched_getaffinity(0))
    resolved = resolve_data_type(data_type, "auto")
    # A repeated workload must compute its prompts again.
    parameters = {
        "enable_kv_cache_reuse": "false",
        "num_threads": str(threads),
        **parse_parameters(parameter or []),
    }
    config = configuration.from_triton(
        {"model_checkpoint_path": str(path.resolve()), "data_type": resolved, **parameters}
    )
    bandwidth = read_bandwidth(threads)
    rows: list[Row] = []
    with ExitStack() as stack:
        with errors.status("Loading"):
            client = stack.enter_context(engine(config))
            systems: dict[str, System] = {OURS: EngineSystem(client)}
            for name in check_peers(peers or []):
                folder = hugging_face_folder(path)
                systems[name] = stack.enter_context(peer(name, folder, resolved, threads))
        if through_triton:
            systems["triton"] = stack.enter_context(triton(path, resolved, parameters))
        workloads = [
            Workload(int(size), input_len, output_len, client.info.vocab_size) for size in batch.split(",")
        ]
        for workload in workloads:
            runs = take_turns(systems, workload, repetitions)
            rows += [
                row(name, workload, run, runs[OURS], client.info, bandwidth) for name, run in runs.items()
            ]
    output.print(table(rows, bandwidth, threads))
    if json is not None:
        write_json(json, rows, bandwidth, threads)


def check_peers(names: list[str]) -> list[str]:
    """Raises: ModelLoadError: a name that is no peer; lists those that are."""
    for name in names:
        if name not in PEERS:
            raise ModelLoadError(f"--peer {name!r} is unknown; peers are {', '.join(PEERS)}")
    return names


def take_turns(systems: dict[str, System], workload: Workload, repetitions: int) -> dict[str, Measurement]:
    """A B A B ...; the first round warms up and does not count."""
    runs: dict[str, list[Measurement]] = {name: [] for name in systems}
    with Progress(console=errors, transient=True) as progress:
        total = (repetitions + 1) * len(systems)
        task = progress.add_task(f"batch {workload.batch}", total=total)
        for repetition in range(repetitions + 1):
            for name, system in systems.items():
                measured = system.run(workload)
                if repetition > 0:
                    runs[name].append(measured)
                progress.advance(task)
    return {name: median(measured) for name, measured in runs.items()}
