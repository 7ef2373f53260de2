# SPDX-License-Identifier: BSD-3-Clause
"""The MPI control and data planes under a real mpirun."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from fastertransformer.config import ParallelConfig
from fastertransformer.server.command import engine_environment, interpreter, mpirun_command
from fastertransformer.server.placement import Placement

HERE = Path(__file__).parent


def run_ranks(program: str, tp_size: int, pp_size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of this folder on as many ranks as the engine would have."""
    parallel = ParallelConfig(tensor_para_size=tp_size, pipeline_para_size=pp_size)
    mpirun = mpirun_command(parallel, Placement())
    return subprocess.run(
        [*mpirun, interpreter(), str(HERE / program), *arguments],
        check=False,
        env=engine_environment(os.environ, Placement(), Path(tempfile.gettempdir())),
        capture_output=True,
        text=True,
        timeout=250,
    )


def check_ranks(program: str, tp_size: int, pp_size: int, *arguments: str) -> None:
    done = run_ranks(program, tp_size, pp_size, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is fine") == tp_size * pp_size


@pytest.mark.parametrize(("tp_size", "pp_size"), [(2, 1), (2, 2), (1, 3)])
def test_collectives(tp_size, pp_size):
    check_ranks("collectives_program.py", tp_size, pp_size, str(tp_size), str(pp_size))


@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("what", ["check", "late", "late-norm", "late-two-shots-norm"])
def test_collectives_through_gpu_memory(ranks, what):
    check_ranks("all_reduce_program.py", ranks, 1, what)


def test_wrong_number_of_ranks_is_refused_with_the_numbers():
    done = run_ranks("collectives_program.py", 2, 1, "2", "2")
    assert done.returncode != 0
    assert "tensor_para_size 2 x pipeline_para_size 2 needs 4 ranks, MPI started 2" in done.stderr
