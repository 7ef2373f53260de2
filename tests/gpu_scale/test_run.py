# SPDX-License-Identifier: BSD-3-Clause
"""Steps run side by side, and one that fails, hangs or is skipped stops none of the others."""

import json
import sys
import time
from pathlib import Path

import pytest
from tiny_model import TINY

from fastertransformer.server import processes
from gpu_scale.__main__ import write_report
from gpu_scale.hardware import Hardware
from gpu_scale.plan import PROGRAM, Step, model_step
from gpu_scale.run import FAILED, LATE, PASSED, SKIPPED, Outcome, judge, run_steps


def python(name: str, code: str, gpus: int = 1, timeout: float = 60, **more: str) -> Step:
    return Step(name=name, gpus=gpus, command=(sys.executable, "-c", code), timeout=timeout, **more)


def run(
    steps: list[Step], folder: Path, gpus: tuple[str, ...] = ("5", "6"), limit: float = 200
) -> list[Outcome]:
    told: list[Outcome] = []
    outcomes = run_steps(steps, gpus, folder, limit, told.append)
    assert sorted(map(id, told)) == sorted(map(id, outcomes))
    assert [outcome.step for outcome in outcomes] == steps
    return outcomes


def test_each_step_has_gpus_of_its_own(tmp_path):
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(1); exit(3)"
    outcomes = run([python("a", code), python("b", code), python("both", code, gpus=2)], tmp_path)
    assert sorted(outcome.detail for outcome in outcomes[:2]) == ["code 3: 5", "code 3: 6"]
    assert sorted(outcomes[2].detail) == sorted("code 3: 5,6")


def test_a_step_that_fails_hangs_or_cannot_run_stops_no_other(tmp_path):
    hangs = (
        "import signal, subprocess, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)"
    )
    steps = [
        python("fails", "raise ValueError('seven')"),
        python("hangs", hangs, timeout=10),
        python("cannot", "", gpus=8, missing="needs 8 GPUs, there are 2"),
        python("goes on", "print('well')"),
    ]
    outcomes = run(steps, tmp_path)
    assert [outcome.status for outcome in outcomes] == [FAILED, LATE, SKIPPED, PASSED]
    assert outcomes[0].detail == "code 1: ValueError: seven"
    assert outcomes[2].detail == "needs 8 GPUs, there are 2"
    assert not processes.is_alive(int(outcomes[1].detail))


def test_the_limit_holds_for_all_steps_together(tmp_path):
    started = time.monotonic()
    steps = [python("first", "import time; time.sleep(1000)", gpus=2), python("never", "", gpus=2)]
    outcomes = run(steps, tmp_path, limit=6)
    assert [outcome.status for outcome in outcomes] == [LATE, SKIPPED]
    assert outcomes[1].detail == "6 s are over"
    assert time.monotonic() - started < 40


@pytest.mark.parametrize(
    ("code", "output", "status", "detail"),
    [
        (0, "1 passed, 1 skipped in 2 s", PASSED, ""),
        (
            0,
            "SKIPPED [1] tests/a.py:3: no tritonserver\n1 skipped in 1 s",
            SKIPPED,
            "no tritonserver",
        ),
        (
            1,
            "E assert\nFAILED tests/a.py::b - AssertionError\n1 failed",
            FAILED,
            "code 1: FAILED tests/a.py::b",
        ),
        (1, "error: no such shape\n", FAILED, "code 1: error: no such shape"),
        (-9, "", FAILED, "code -9: "),
        (None, "was here\n", LATE, "was here"),
    ],
)
def test_outputs_are_read(code, output, status, detail):
    found = judge(code, output)
    assert found[0] == status
    assert found[1].startswith(detail)


def test_figures_become_tables(tmp_path):
    """The verbs as they are, on CPU ranks."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    cpu = ("--data-type=fp32", "--num-threads=1", "--parameter=device=cpu")
    model = (str(folder), "--dummy-weights", *cpu, "--parameter=max_tokens_in_paged_kv_cache=16384")
    sums = (*PROGRAM, "bench-collectives", "--ranks=2", "--size=64,8K", "--device=cpu")
    steps = [
        Step(name="sums", gpus=2, command=sums, timeout=300, figures="sums-2"),
        Step(name="norms", gpus=2, command=(*sums, "--norm"), timeout=300, figures="norms-2"),
        model_step("tiny", model, (1, 1), batches=(1, 2), lengths=(9, 4)),
        model_step("tiny", model, (2, 1), batches=(1, 2), lengths=(9, 4)),
        python("broken", "exit(1)", figures="nothing"),
    ]
    outcomes = run(steps, tmp_path, limit=500)
    assert [outcome.status for outcome in outcomes] == [PASSED] * 4 + [FAILED], outcomes
    write_report(outcomes, Hardware(("5", "6"), "no GPU"), tmp_path)
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert "| bytes | 2 ranks, MPI |" in lines
    assert "| bytes | 2 ranks, MPI, norm |" in lines
    sizes = [line.split(" | ")[0] for line in lines if line.startswith(("| 64 ", "| 8K "))]
    assert sizes == ["| 64", "| 8K"] * 2
    assert "| model | T x P | batch 1 | batch 2 |" in lines
    (alone,) = [line for line in lines if line.startswith("| tiny | 1 x 1 |")]
    assert alone.count("(1.00x, ") == 2
    (both,) = [line for line in lines if line.startswith("| tiny | 2 x 1 |")]
    assert both.count("x, ") == 2
    assert any(line.startswith("| broken |") and "| failed | code 1" in line for line in lines)
    content = json.loads((tmp_path / "results.json").read_text())
    assert set(content["figures"]) == {"sums-2", "norms-2", "tiny-1x1", "tiny-2x1"}
