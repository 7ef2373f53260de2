# SPDX-License-Identifier: BSD-3-Clause
"""Runs every workload on every system and puts the figures side by side."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.progress import Progress

from ...errors import ModelLoadError
from ...messages import EngineInfo
from ..checkpoint import hugging_face_folder
from ..console import errors
from .encoding_report import EncodingRow, encoding_row
from .floors import Floors
from .kind import Kind
from .peers import PEERS, RANDOM_WEIGHTS
from .report import Row, row
from .setup import Setup
from .systems import EngineSystem, System, engine, peer
from .triton_system import triton
from .workload import Workload, median

OURS = "engine"

Starters = dict[str, Callable[[], AbstractContextManager[System]]]
Runs = dict[str, Any]
"""By the name of the system: Measurement or Encoding, as the kind of the model has it."""


@dataclass(frozen=True)
class Schedule:
    """How often each system runs a workload, and how many seconds of rest precede a run.

    Prompts in a row draw all the power that a GPU may have, and its clock falls; a lone one meets
    it at full speed.
    """

    repetitions: int
    pause: float


def compare(
    setup: Setup, workloads: list[Workload], peers: list[str], through_triton: bool, schedule: Schedule
) -> list[Row] | list[EncodingRow]:
    """Rows by workload; a system whose memory does not hold a workload has no row for it.

    Raises:
        ModelLoadError: the engine does not start.
        FasterTransformerError: a system failed.
    """
    starters = _starters(setup, peers, through_triton)
    # On a GPU each system has the memory for itself; on a CPU they take turns, since neighbours disturb.
    groups = [[name] for name in starters] if setup.device.type == "cuda" else [list(starters)]
    runs: dict[Workload, Runs] = {workload: {} for workload in workloads}
    info: EngineInfo | None = None
    for group in groups:
        with ExitStack() as stack:
            with errors.status(f"Loading {', '.join(group)}"):
                systems = {name: stack.enter_context(starters[name]()) for name in group}
            for workload in workloads:
                runs[workload] |= take_turns(systems, workload, schedule)
            if isinstance(ours := systems.get(OURS), EngineSystem):
                info = ours.info
    assert info is not None
    floors = Floors(
        machine=setup.machine,
        spec=setup.spec,
        info=info,
        max_num_seqs=setup.config.max_num_seqs,
        num_devices=setup.config.parallel.tensor_para_size if setup.device.type == "cuda" else 1,
    )
    with_others = RANDOM_WEIGHTS if setup.config.load_format != "dummy" else frozenset(peers)
    make_row: Callable[..., Any] = encoding_row if setup.kind is Kind.ENCODER else row
    return [
        make_row(name, workload, run, by_system[OURS], floors, same_weights=name not in with_others)
        for workload, by_system in runs.items()
        for name, run in by_system.items()
    ]


def check_peers(names: list[str], kind: Kind, through_triton: bool) -> None:
    """Raises: ModelLoadError: a system that does not do what the model does; lists those that do."""
    for name in names:
        if name not in PEERS[kind]:
            raise ModelLoadError(
                f"--peer {name!r} is unknown; peers of this model are {', '.join(PEERS[kind])}"
            )
    if through_triton and kind is not Kind.DECODER:
        raise ModelLoadError("--through-triton measures decoders only")


def _starters(setup: Setup, peers: list[str], through_triton: bool) -> Starters:
    starters: Starters = {OURS: partial(engine, setup.config)}
    for name in peers:
        starters[name] = partial(peer, name, hugging_face_folder(setup.folder), setup.config, setup.kind)
    if through_triton:
        starters["triton"] = partial(triton, setup.folder, setup.parameters)
    return starters


def take_turns(systems: dict[str, System], workload: Workload, schedule: Schedule) -> Runs:
    """A B A B ...; the first round warms up and does not count."""
    runs: dict[str, list[Any]] = {}
    # Without a thread of its own: it would take the client's time.
    with Progress(console=errors, transient=True, auto_refresh=False) as progress:
        total = (schedule.repetitions + 1) * len(systems)
        task = progress.add_task(str(workload), total=total)
        for repetition in range(schedule.repetitions + 1):
            for name, system in systems.items():
                progress.update(task, description=f"{workload} {name}", refresh=True)
                time.sleep(schedule.pause)
                measured = system.run(workload)
                if repetition > 0 and measured is not None:
                    runs.setdefault(name, []).append(measured)
                progress.advance(task)
    return {name: median(measured) for name, measured in runs.items()}
