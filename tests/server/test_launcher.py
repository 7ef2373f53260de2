# SPDX-License-Identifier: BSD-3-Clause
"""Who starts, waits for and leaves an engine, with real engines; also where files of theirs are removed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace
from triton_process import wait_for

from fastertransformer.config import CacheConfig, EngineConfig, ParallelConfig, encode
from fastertransformer.errors import EngineDead, ModelLoadError
from fastertransformer.messages import Request, SamplingParams, token_ids
from fastertransformer.server import processes
from fastertransformer.server.client import EngineClient
from fastertransformer.server.launcher import Launcher

SOON_S = 30


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the engines' directories are; sockets must have short paths."""
    folder = Path(tempfile.mkdtemp(prefix="ft"))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def config(llama: Path) -> EngineConfig:
    cache = CacheConfig(max_tokens=4096)
    return EngineConfig(model_checkpoint_path=str(llama), cache=cache, device="cpu", num_threads=1)


@pytest.fixture
def launcher(temporary: Path, config: EngineConfig) -> Callable[[], Launcher]:
    """Of model instances that share an engine."""
    assert tempfile.gettempdir() == str(temporary)
    return lambda: Launcher(config)


def answers(client: EngineClient) -> bool:
    client.submit([Request(1, token_ids((5,)), SamplingParams(max_tokens=1, end_ids=()))])
    return any(message.outputs for message in client.outputs())


def test_nobody_waits_for_who_waits_for_a_busy_engine(
    launcher: Callable[[], Launcher], temporary: Path
) -> None:
    """One that is stopped is as one in a step without end: it takes a connection and does not greet."""
    early, late = launcher(), launcher()
    client = early.attach()
    os.kill(client.pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(late.attach)
        wait_for(lambda: number_of_users(temporary) == 2, SOON_S, "the second waits")
        time.sleep(0.5)
        begin = time.monotonic()
        early.detach(client)
        assert time.monotonic() - begin < SOON_S
        assert not waiting.done()
        late.give_up()
        with pytest.raises(ModelLoadError, match="unloaded while it waited"):
            waiting.result(SOON_S)
    assert not processes.is_alive(client.pid)
    assert not list(temporary.glob("*/*"))


def number_of_users(temporary: Path) -> int:
    return sum(len(path.read_text().split()) for path in temporary.glob("*/*/users"))


def test_who_leaves_a_directory_that_was_removed_does_not_end_the_next_one(
    launcher: Callable[[], Launcher], temporary: Path
) -> None:
    early, late = launcher(), launcher()
    first = early.attach()
    shutil.rmtree(next(temporary.iterdir()))
    second = late.attach()
    assert second.pid != first.pid
    early.detach(first)
    assert answers(second)
    wait_for(lambda: not processes.is_alive(first.pid), SOON_S, "the engine without clients has ended")
    late.detach(second)
    assert not processes.is_alive(second.pid)
    assert not list(temporary.glob("*/*"))


def test_an_engine_that_is_killed_while_it_loads(launcher: Callable[[], Launcher], temporary: Path) -> None:
    starting = launcher()
    with ThreadPoolExecutor() as pool:
        attaching = pool.submit(starting.attach)
        wait_for(lambda: bool(workers(temporary)), SOON_S, "the engine loads")
        os.kill(workers(temporary)[0], signal.SIGKILL)
        with pytest.raises(ModelLoadError, match="the engine was ended by SIGKILL"):
            attaching.result(SOON_S)
    assert not list(temporary.glob("*/*"))


ATTACH = """
import os, sys
from fastertransformer.config import decode
from fastertransformer.server.launcher import Launcher
Launcher(decode(sys.argv[1]), server_pid=os.getppid()).attach()
"""


def test_an_engine_whose_starter_is_killed_while_it_loads(temporary: Path, config: EngineConfig) -> None:
    starter = subprocess.Popen([sys.executable, "-c", ATTACH, encode(config)])
    wait_for(lambda: bool(workers(temporary)), SOON_S, "the engine loads")
    starter.kill()
    starter.wait()
    wait_for(lambda: not workers(temporary), SOON_S, "the engine was ended")
    wait_for(lambda: not list(temporary.glob("*/*")), SOON_S, "its directory was removed")


def test_what_a_killed_mpirun_leaves_is_removed(temporary: Path, config: EngineConfig) -> None:
    launcher = Launcher(replace(config, parallel=ParallelConfig(tensor_para_size=2)))
    client = launcher.attach()
    segments = len(shared_by_ranks())
    assert segments > 0
    (guard_file,) = temporary.glob("*/*/guard.pid")
    (mpirun,) = processes.children(int(guard_file.read_text()))
    os.kill(mpirun, signal.SIGKILL)
    with pytest.raises(EngineDead):
        list(client.outputs())
    client.close()
    again = launcher.attach()
    assert len(list(temporary.rglob("ompi.*"))) == 1
    assert len(shared_by_ranks()) == segments
    launcher.detach(again)
    assert [len(list(path.iterdir())) for path in temporary.iterdir()] == [0]
    assert not shared_by_ranks("")


def shared_by_ranks(names: str = "/*") -> list[Path]:
    """What engines of this process have in memory."""
    return list(Path("/dev/shm").glob(f"fastertransformer-*-{os.getpid()}-*{names}"))


def workers(temporary: Path) -> list[int]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    lines = {pid: processes.command_line(pid) for pid in pids}
    return [
        pid
        for pid, line in lines.items()
        if line.split()[1:3] == ["-m", "fastertransformer.worker"] and str(temporary) in line
    ]
