# SPDX-License-Identifier: BSD-3-Clause
"""Where the time of a step goes: the engine's own loop in this process, with a profiler around it."""

from msgspec import Struct

from ... import worker
from ...errors import ModelLoadError
from ...parallel.world import LocalWorld
from .recorder import CpuRecorder, GpuRecorder, Recorder
from .setup import Setup
from .trace import Account, short_name
from .watcher import Watcher
from .workload import Workload


class KernelTime(Struct, frozen=True, kw_only=True):
    """All launches of one kernel in a step."""

    name: str
    calls: float
    us: float
    """In which it ran and no kernel that started before it did."""
    share: float
    """Of the time of a step under the profiler."""


class Profile(Struct, frozen=True, kw_only=True):
    """Times of one step in us, or of a whole run where outputs are too short for steps alike."""

    workload: str
    """As `parse_workloads` reads it."""
    batch: int
    unit: str
    """step or run"""
    wall_us: float
    """Without a profiler; the other times are under it."""
    profiled_us: float
    busy_us: float
    """The device computes or copies."""
    gap_us: float
    """It pauses between two kernels of one launch."""
    host_us: float
    """It waits for the host's next launch."""
    kernels: list[KernelTime]


def profile(setup: Setup, workloads: list[Workload]) -> list[Profile]:
    """Loads the model into this process; every workload runs untouched, then under the profiler.

    Raises:
        ModelLoadError: the model cannot be loaded, or needs several ranks.
        FasterTransformerError: a workload has no steps in which all its requests run.
    """
    config = setup.config
    if config.parallel.world_size > 1:
        raise ModelLoadError("--profile runs the engine in its own process, which is one rank only")
    untouched = Recorder(setup.device)
    recorder = GpuRecorder(setup.device) if setup.device.type == "cuda" else CpuRecorder(setup.device)
    world = LocalWorld(setup.device)
    rank = worker.load_rank(config, world)

    def run(workload: Workload, by: Recorder) -> Watcher:
        watcher = Watcher(workload, rank.info, config.max_num_seqs, by)
        worker.make_engine(config, world, rank, watcher).serve()
        return watcher

    profiles = []
    for workload in workloads:
        run(workload, untouched)  # warms up
        wall_us = run(workload, untouched).us_per_step
        watcher = run(workload, recorder)
        found = recorder.account(watcher.us_per_step * watcher.num_steps)
        profiles.append(_profile(workload, wall_us, watcher, found))
    return profiles


def _profile(workload: Workload, wall_us: float, watcher: Watcher, found: Account) -> Profile:
    steps, profiled_us = watcher.num_steps, watcher.us_per_step
    return Profile(
        workload=str(workload),
        batch=workload.batch,
        unit="step" if watcher.has_steps else "run",
        wall_us=wall_us,
        profiled_us=profiled_us,
        busy_us=found.busy / steps,
        gap_us=found.gaps_within / steps,
        host_us=found.gaps_between / steps,
        kernels=[
            KernelTime(
                name=short_name(name),
                calls=found.calls[name] / steps,
                us=us / steps,
                share=us / steps / profiled_us,
            )
            for name, us in sorted(found.times.items(), key=lambda item: -item[1])
        ],
    )
