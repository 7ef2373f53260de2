# SPDX-License-Identifier: BSD-3-Clause
"""Threads of the CPU kernels, millions of jobs in a row: a helper may lose its core at any instruction."""

import os
import shlex
import subprocess
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
NUM_JOBS = 2_000_000


def test_a_late_helper_takes_no_piece_of_the_next_job(tmp_path):
    sources = [Path(__file__).with_name("many_jobs.cc"), CSRC / "core" / "parallel.cc"]
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    program = tmp_path / "many_jobs"
    subprocess.run(
        [*compiler, "-std=c++17", "-O2", "-pthread", f"-I{CSRC}", *sources, "-o", program], check=True
    )
    done = subprocess.run([program, str(NUM_JOBS)], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout == "0 wrong\n"
