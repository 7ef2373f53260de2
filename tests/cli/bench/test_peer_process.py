# SPDX-License-Identifier: BSD-3-Clause
"""How a peer's time is divided among its tokens."""

import time

from fastertransformer.cli.bench.peer_process import run_generate
from fastertransformer.cli.bench.workload import Workload


def test_a_first_call_that_takes_longest_leaves_time_for_every_token():
    def generate(workload: Workload) -> list[list[int]]:
        time.sleep(0.2 if workload.output_len == 1 else 0.05)
        return [[7] * workload.output_len]

    run = run_generate(generate, Workload(1, 4, 5, 100))
    assert run.token_ms_p50 > 0
    assert 5 * run.token_ms_p50 <= run.total_ms * 1.001
