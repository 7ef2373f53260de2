# SPDX-License-Identifier: BSD-3-Clause
"""Runs the ranks of a Job under mpirun, and ends them whatever happens to this process."""

import os
import subprocess
from pathlib import Path

import msgspec

from ....config import ParallelConfig
from ....errors import FasterTransformerError
from ....server.command import engine_environment, interpreter, mpirun_command, started_by_mpirun
from ....server.placement import Placement
from .job import Job

_LAST_CHARACTERS = 2000


def run_ranks(job: Job, timeout: float) -> None:
    """What they measured is in `job.figures`, also when it ends badly.

    Raises:
        FasterTransformerError: a rank failed, or they took more than `timeout` seconds; has their own words.
        ModelLoadError: there is no mpirun.
    """
    mpirun = mpirun_command(ParallelConfig(tensor_para_size=job.ranks), Placement())
    module = [interpreter(), "-m", "fastertransformer.cli.bench.collectives.rank"]
    guard = [interpreter(), "-m", "fastertransformer.server.guard", str(os.getpid())]
    folder = Path(job.figures).parent
    reset_affinity = str(int(started_by_mpirun(os.environ)))
    try:
        done = subprocess.run(
            [*guard, str(folder / "guard"), reset_affinity, *mpirun, *module, msgspec.json.encode(job)],
            env=engine_environment(os.environ, Placement(), folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        trouble, said = f"were not done after {timeout:g} s", late.stdout
    else:
        trouble, said = f"ended with code {done.returncode}" if done.returncode else "", done.stdout
    if trouble:
        words = (said or b"").decode(errors="replace")[-_LAST_CHARACTERS:]
        raise FasterTransformerError(f"{job.ranks} ranks {trouble}\n{words}")
