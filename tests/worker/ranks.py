# SPDX-License-Identifier: BSD-3-Clause
"""Processes that are one engine after the other: importing torch takes longer than what a test asks for."""

import os
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from fastertransformer import config as configuration
from fastertransformer.config import EngineConfig, ParallelConfig
from fastertransformer.errors import EngineDead
from fastertransformer.server.client import EngineClient
from fastertransformer.server.command import engine_environment, interpreter, mpirun_command
from fastertransformer.server.placement import Placement

PROGRAM = Path(__file__).with_name("ranks_program.py")
STOP_S = 10


class Ranks:
    """`count` processes of ranks_program.

    Args:
        device: shared by all of them, whatever the configurations say; empty: as these say.
    """

    def __init__(self, count: int, device: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self._started = 0
        mpirun = mpirun_command(ParallelConfig(tensor_para_size=count), Placement()) if count > 1 else []
        arguments = [self._folder.name, str(os.getpid()), *([device] if device else [])]
        self._process = subprocess.Popen(
            [*mpirun, interpreter(), str(PROGRAM), *arguments],
            env=engine_environment(os.environ, Placement(), Path(self._folder.name)),
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def start(self, config: EngineConfig, deadline_s: float) -> EngineClient:
        """A client of a new engine, which ends when that leaves. Raises: EngineDead: none in time."""
        path = Path(self._folder.name, f"{self._started}.json")
        self._started += 1
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(configuration.encode(config))
        unfinished.rename(path)
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline and self.is_alive:
            with suppress(EngineDead):
                return EngineClient(path.with_suffix(".sock"), deadline_s)
            time.sleep(0.01)
        code = self._process.poll()
        self._process.kill()  # what hangs would hang the next one, too
        raise EngineDead(f"engine {path.stem} did not start; its processes returned {code}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


class RanksByCount:
    """Starts them when they are first needed, and again when they have died."""

    def __init__(self) -> None:
        self._ranks: dict[int, Ranks] = {}

    def of(self, count: int) -> Ranks:
        found = self._ranks.get(count)
        if found is None or not found.is_alive:
            found = self._ranks[count] = Ranks(count)
        return found

    def stop(self) -> None:
        for ranks in self._ranks.values():
            ranks.stop()
        self._ranks.clear()
