# SPDX-License-Identifier: BSD-3-Clause
"""Processes that are killed: clients get errors, the engine comes back, nothing is left behind."""

import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import client_tools as ct
import pytest
import torch
from repositories import write_model
from tiny_models import LONG, NUM_HEADS
from triton_process import TritonServer, wait_for
from tritonclient.utils import InferenceServerException

from fastertransformer.server import processes

SOON_S = 30
"""For what takes a second or two on a machine that does nothing else."""


def shared_memory(server: TritonServer) -> set[Path]:
    """Segments that the server's stubs hold."""
    maps = (Path(f"/proc/{pid}/maps").read_text() for pid in server.stubs())
    return {Path(name) for text in maps for name in re.findall(r"/dev/shm/\S+", text)}


def start(folder: Path, llama: Path, *launcher: str, **parameters: str) -> TritonServer:
    write_model(folder / "models", llama, "fastertransformer", "streaming", decoupled=True, **parameters)
    write_model(folder / "models", llama, "fastertransformer", **parameters)
    return TritonServer(folder, folder / "models", launcher=launcher)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def server_of_many_ranks(
    request: pytest.FixtureRequest, tmp_path: Path, llama: Path
) -> Iterator[TritonServer]:
    """Two on a CPU; one for each GPU, as tensor-parallel as the model's heads allow."""
    gpus = 2 if request.param == "cpu" else torch.cuda.device_count()
    tp_size = math.gcd(gpus, NUM_HEADS)
    mesh = {"tensor_para_size": str(tp_size), "pipeline_para_size": str(gpus // tp_size)}
    running = start(tmp_path, llama, device=request.param, **mesh)
    yield running
    running.stop()


def test_death_of_a_rank(server_of_many_ranks: TritonServer) -> None:
    server = server_of_many_ranks
    before = ct.stream_infer(server.grpc, "streaming", ct.core_inputs([[11, 12]], 8))[-1]
    old = server.ranks()
    with ct.open_stream(server.grpc) as stream:
        for i in range(8):
            stream.send("streaming", ct.core_inputs([[i + 3]], LONG, min_length=LONG))
        seen: set[int] = set()
        while len(seen) < 8:
            outputs, final = stream.next()
            assert not final
            seen.add(int(outputs["output_ids"][0, 0, 0]))
        os.kill(old[-1], signal.SIGKILL)
        killed = time.monotonic()
        for _ in range(8):
            with pytest.raises(InferenceServerException, match="may be sent again"):
                list(stream.responses())
        assert time.monotonic() - killed < SOON_S
    # Sent while the engine restarts, to an instance that knows of it: it waits.
    after = ct.stream_infer(server.grpc, "streaming", ct.core_inputs([[11, 12]], 8))[-1]
    assert after["output_ids"].tolist() == before["output_ids"].tolist()
    assert not set(old) & set(server.ranks())
    assert len(server.ranks()) == len(old)
    server.stop()
    wait_for(lambda: not server.engine_processes(), SOON_S, "no engine process is left")
    assert not server.sockets()


def test_kill_of_the_server_while_it_generates(tmp_path: Path, llama: Path) -> None:
    server = start(tmp_path, llama, pipeline_para_size="2")
    stubs, shared = processes.children(server.process.pid), shared_memory(server)
    assert len(shared) == 2
    with ct.open_stream(server.grpc) as stream:
        stream.send("streaming", ct.core_inputs([[3]], LONG, min_length=LONG))
        stream.next()
        assert len(server.ranks()) == 2
        server.process.kill()
        server.process.wait()
    wait_for(lambda: not server.engine_processes(), SOON_S, "no engine process is left")
    wait_for(lambda: not any(map(processes.is_alive, stubs)), SOON_S, "no stub is left")
    assert not list(server.temporary.glob("fastertransformer-*/*"))
    assert not any(path.exists() for path in shared)


def test_kill_of_server_and_guard(tmp_path: Path, llama: Path) -> None:
    """What then is left the next server sweeps."""
    server = start(tmp_path / "one", llama)
    shared = shared_memory(server)
    guard = next(pid for pid in server.engine_processes() if "server.guard" in processes.command_line(pid))
    for pid in (guard, server.process.pid):
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    wait_for(lambda: not server.engine_processes(), SOON_S, "no engine process is left")
    left = list(server.temporary.glob("fastertransformer-*/*"))
    assert len(left) == 1
    of_ranks = Path("/dev/shm", f"{left[0].parent.name}-{left[0].name}")
    assert of_ranks.is_dir()
    after = start(tmp_path / "two", llama, "env", f"TMPDIR={server.temporary}")
    assert left[0] not in server.temporary.glob("fastertransformer-*/*")
    assert not any(path.exists() for path in [*shared, of_ranks])
    after.stop()
    assert not list(server.temporary.glob("fastertransformer-*/*"))


def test_server_under_mpirun(tmp_path: Path, llama: Path) -> None:
    """The engine must not take itself for a rank of the outer job, nor stay on its one core."""
    mpirun = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    assert mpirun is not None
    allow = [
        f"{kind}_ALLOW_RUN_AS_ROOT{confirm}=1" for kind in ("OMPI", "PRTE") for confirm in ("", "_CONFIRM")
    ]
    server = start(tmp_path, llama, "env", *allow, mpirun, "-n", "1", tensor_para_size="2")
    try:
        outputs = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs([[11, 12]], 8))
        assert outputs["sequence_length"][0, 0] > 0
        assert [os.sched_getaffinity(pid) for pid in server.ranks()] == [os.sched_getaffinity(0)] * 2
    finally:
        server.stop()
    wait_for(lambda: not server.engine_processes(), SOON_S, "no engine process is left")
    assert not server.sockets()
