# SPDX-License-Identifier: BSD-3-Clause
"""Runs steps side by side as GPUs are free; one that fails or hangs ends alone, and the rest goes on."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from .plan import ROOT, Step

PASSED, FAILED, SKIPPED, LATE = "passed", "failed", "skipped", "timed out"
_LEAST_SECONDS = 5.0
"""With less time left a step is not begun."""
_GRACE_S = 20.0
"""From Ctrl-C, on which a step tidies up, to the end of all of its processes."""
_POLL_S = 0.05
_TELLING = re.compile(r"^(?:FAILED|ERROR|SKIPPED|error:|\w*Error:).*")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended."""

    step: Step
    status: str
    """passed, failed, skipped, timed out"""
    seconds: float = 0.0
    detail: str = ""


class _Running:
    """A step's process."""

    def __init__(self, step: Step, gpus: list[str], folder: Path, seconds: float) -> None:
        self.step = step
        self.gpus = gpus
        self._log = folder / f"{re.sub('[^a-z0-9]+', '-', step.name.lower())}.log"
        json = [f"--json={folder / step.figures}.json"] if step.figures else []
        paths = [str(ROOT / "backend"), os.environ.get("PYTHONPATH", "")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*step.command, *json],
                cwd=ROOT,
                env={
                    **os.environ,
                    "CUDA_VISIBLE_DEVICES": ",".join(gpus),
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started = time.monotonic()
        self._deadline = self._started + seconds

    def outcome(self) -> Outcome | None:
        """None while it runs and may run on."""
        code = self._process.poll()
        if code is None and time.monotonic() < self._deadline:
            return None
        status, detail = judge(code, self._log.read_text(errors="replace"))
        if code is None:
            self.stop()
        return Outcome(self.step, status, time.monotonic() - self._started, detail)

    def stop(self) -> None:
        """As Ctrl-C would; what is left after that is killed."""
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
            self._process.kill()
            self._process.wait()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def run_steps(
    steps: list[Step],
    gpus: tuple[str, ...],
    folder: Path,
    limit: float,
    report: Callable[[Outcome], object],
) -> list[Outcome]:
    """Outcomes in the order of `steps`.

    Args:
        folder: for figures and logs.
        limit: seconds for everything; what has not begun by then is skipped, what runs is stopped.
        report: called with each outcome as soon as it is known.
    """
    assert all(step.missing or step.gpus <= len(gpus) for step in steps), "such a step would wait for ever"
    end = time.monotonic() + limit
    outcomes: dict[str, Outcome] = {}
    running: list[_Running] = []
    waiting, free = list(steps), list(gpus)

    def ended(outcome: Outcome) -> None:
        outcomes[outcome.step.name] = outcome
        report(outcome)

    try:
        while waiting or running:
            for step in list(waiting):
                left = end - time.monotonic()
                if reason := step.missing or (f"{limit:g} s are over" if left < _LEAST_SECONDS else ""):
                    ended(Outcome(step, SKIPPED, detail=reason))
                elif step.gpus <= len(free):
                    taken, free = free[: step.gpus], free[step.gpus :]
                    running.append(_Running(step, taken, folder, min(step.timeout, left)))
                else:
                    continue
                waiting.remove(step)
            for process in list(running):
                if outcome := process.outcome():
                    ended(outcome)
                    running.remove(process)
                    free += process.gpus
            time.sleep(_POLL_S)
    finally:
        for process in running:
            process.stop()
    return [outcomes[step.name] for step in steps]


def judge(code: int | None, output: str) -> tuple[str, str]:
    """(status, what the output says about it).

    Args:
        code: None: its time is over.
        output: of pytest or of a verb; a run of pytest that skipped all of its tests ends with code 0.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.match(line)]
    last = (telling or lines or [""])[-1]
    if code is None:
        return LATE, lines[-1] if lines else ""
    if code:
        return FAILED, f"code {code}: {last}"
    if lines and re.search(r"\d+ skipped", lines[-1]) and not re.search(r"\d+ passed", lines[-1]):
        return SKIPPED, re.sub(r"^SKIPPED \[\d+\] \S+: ", "", last)
    return PASSED, ""
