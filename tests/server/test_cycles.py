# SPDX-License-Identifier: BSD-3-Clause
"""Ten times a model is loaded and unloaded while clients ask it and its neighbour: nothing is left over."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import client_tools as ct
import tritonclient.grpc as grpcclient
from explicit import explicit_server, unload
from repositories import write_model
from triton_process import TritonServer, memory_of
from tritonclient.utils import InferenceServerException

CYCLES = 10
PAUSE_S = 0.05
TOLERANCE = 64 << 20
"""Bytes; a rank that is forgotten holds twice as much."""
AWAY = re.compile(
    r"is not ready|is not found|has no available versions|was unloaded|UNAVAILABLE|unloading", re.IGNORECASE
)
"""What a client is told of a model that is not there."""


class Client(threading.Thread):
    """Asks the same question again and again."""

    def __init__(self, server: TritonServer, model: str, is_steady: bool) -> None:
        super().__init__()
        self._server = server
        self._model = model
        self._is_steady = is_steady
        self.stopping = threading.Event()
        self.answered = threading.Semaphore(0)
        self.answers: set[tuple[int, ...]] = set()
        self.errors: list[str] = []

    def run(self) -> None:
        while not self.stopping.wait(PAUSE_S):
            try:
                outputs = ct.grpc_infer(self._server.grpc, self._model, ct.core_inputs([[11, 12]], 24))
            except InferenceServerException as error:
                if self._is_steady or not AWAY.search(str(error)):
                    self.errors.append(str(error))
            else:
                self.answers.add(tuple(outputs["output_ids"].flat))
                self.answered.release()

    def wait_for_answers(self) -> None:
        """Until it has got some that it asked for after this call."""
        while self.answered.acquire(blocking=False):
            pass
        for _ in range(3):
            assert self.answered.acquire(timeout=ct.TIMEOUT_S), self.errors


@contextmanager
def asking(*clients: Client) -> Iterator[None]:
    for client in clients:
        client.start()
    try:
        yield
    finally:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join()


def shared_memory(server: TritonServer) -> set[str]:
    """Segments that its processes hold."""
    maps = (Path(f"/proc/{pid}/maps") for pid in server.all_processes())
    return {name for path in maps for name in re.findall(r"/dev/shm/\S+", _read(path))}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""


def state(server: TritonServer) -> dict[str, object]:
    """What must be the same after a cycle as before it, but for memory."""
    pids = server.all_processes()
    return {
        "processes": sorted(pids),
        "files": sorted(server.temporary.rglob("*")),
        "shared memory": shared_memory(server),
    }


def test_ten_cycles_under_traffic(tmp_path: Path, llama: Path) -> None:
    with explicit_server(tmp_path) as server, grpcclient.InferenceServerClient(server.grpc) as control:
        models = tmp_path / "models"
        write_model(models, llama, "fastertransformer", "steady", MODEL_TYPE="llama")
        write_model(models, llama, "fastertransformer", "single")
        write_model(models, llama, "fastertransformer", "pair", TENSOR_PARA_SIZE="2", INSTANCES="2")
        control.load_model("steady")
        steady = Client(server, "steady", is_steady=True)
        guests = [Client(server, name, is_steady=False) for name in ("single", "pair")]
        before, memory = state(server), []
        segments: set[str] = set()
        with asking(steady, *guests):
            for cycle in range(CYCLES):
                guest, name = (guests[1], "pair") if cycle % 4 == 3 else (guests[0], "single")
                control.load_model(name)
                guest.wait_for_answers()
                steady.wait_for_answers()
                segments |= shared_memory(server)
                unload(control, name)
                assert state(server) == before
                memory.append(memory_of(server.all_processes()))
        assert steady.errors == guests[0].errors == guests[1].errors == []
        assert len(steady.answers | guests[0].answers | guests[1].answers) == 1
        assert memory[-1] - memory[1] < TOLERANCE, memory
        assert len(segments) >= 1 + CYCLES
        assert [name for name in segments - shared_memory(server) if Path(name).exists()] == []
        unload(control, "steady")
        assert server.all_processes() == [server.process.pid]
        assert not shared_memory(server)
