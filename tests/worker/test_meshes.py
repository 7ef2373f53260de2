# SPDX-License-Identifier: BSD-3-Clause
"""Many ranks generate what one generates, on every mesh that they can form."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_runs import DEADLINE_S, mixed_requests, running_engine, tokens_of
from tiny_llama import write_llama

from fastertransformer import config as configuration
from fastertransformer.config import CacheConfig, EngineConfig, ParallelConfig
from fastertransformer.errors import EngineDead
from fastertransformer.server.client import EngineClient
from fastertransformer.server.command import engine_environment, interpreter, mpirun_command
from fastertransformer.server.placement import Placement

PROGRAM = Path(__file__).with_name("meshes_program.py")
REQUESTS = mixed_requests()[:14]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@contextlib.contextmanager
def ranks(
    checkpoint: Path, device: str, count: int, meshes: list[str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """meshes_program on `count` ranks, which must have ended well at the end."""
    config = EngineConfig(
        model_checkpoint_path=str(checkpoint),
        parallel=ParallelConfig(tensor_para_size=count),
        cache=CacheConfig(max_tokens=4096, block_size=8),
        num_threads=1,
    )
    mpirun = mpirun_command(config.parallel, Placement())
    command = [*mpirun, interpreter(), str(PROGRAM), device, str(folder), configuration.encode(config)]
    process = subprocess.Popen([*command, *meshes], env=engine_environment(os.environ, Placement()))
    try:
        yield process
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()


def connected(socket: Path, process: subprocess.Popen[bytes]) -> EngineClient:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(EngineDead):
            return EngineClient(socket, DEADLINE_S)
        time.sleep(0.1)
    pytest.fail(f"{socket.name} has no engine; mpirun returned {process.poll()}")


def tokens_of_one_rank(checkpoint: Path, device: str) -> dict[int, list[int]]:
    with running_engine(checkpoint, device=device) as client:
        tokens = tokens_of(client, REQUESTS)
    assert len(set(map(tuple, tokens.values()))) > 10, "the requests do not tell much apart"
    return tokens


def check_meshes(checkpoint: Path, device: str, count: int, meshes: list[str], folder: Path) -> None:
    expected = tokens_of_one_rank(checkpoint, device.partition(":")[0])
    with ranks(checkpoint, device, count, meshes, folder) as process:
        for mesh in meshes:
            client = connected(folder / f"{mesh}.sock", process)
            assert tokens_of(client, REQUESTS) == expected, mesh
            client.close()


@pytest.mark.parametrize(
    ("count", "meshes"), [(4, ["4x1", "1x4", "2x2"]), (8, ["8x1", "4x2", "2x4"])], ids=["4", "8"]
)
def test_many_ranks(checkpoint, count, meshes, tmp_path):
    check_meshes(checkpoint, "cpu", count, meshes, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("count", [2, 4])
def test_ranks_that_share_a_gpu(checkpoint, count, tmp_path):
    """Without NCCL, which wants a GPU for each: only what goes through the GPUs' own memory."""
    check_meshes(checkpoint, "cuda:0", count, [f"{count}x1"], tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("mesh", ["2x1", "1x2", "4x1", "2x2", "1x4", "8x1", "4x2", "2x4"])
def test_meshes_of_gpus(checkpoint, mesh):
    """As engines run: a GPU for each rank, NCCL and what goes through the GPUs' own memory."""
    tp_size, pp_size = map(int, mesh.split("x"))
    if tp_size * pp_size > torch.cuda.device_count():
        pytest.skip(f"needs {tp_size * pp_size} GPUs, there are {torch.cuda.device_count()}")
    expected = tokens_of_one_rank(checkpoint, "cuda")
    with running_engine(checkpoint, tp_size, pp_size, device="cuda") as client:
        assert tokens_of(client, REQUESTS) == expected
