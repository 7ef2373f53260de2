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
from engine_runs import DEADLINE_S, VOCAB_SIZE, mixed_requests, running_engine, tokens_of
from transformers import LlamaConfig, LlamaForCausalLM

from fastertransformer import config as configuration
from fastertransformer.config import CacheConfig, EngineConfig, ParallelConfig
from fastertransformer.errors import EngineDead
from fastertransformer.server.client import EngineClient
from fastertransformer.server.command import engine_command, engine_environment, interpreter
from fastertransformer.server.placement import Placement

PROGRAM = Path(__file__).with_name("meshes_program.py")
REQUESTS = mixed_requests()[:14]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Heads and layers for eight ranks; two key-value heads are repeated, 211 words are padded."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.25)
    model.save_pretrained(folder)
    return folder


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
    engine = engine_command(config, Placement(), Path("unused"))
    command = [*engine[: engine.index(interpreter())], interpreter(), str(PROGRAM), device, str(folder)]
    process = subprocess.Popen(
        [*command, configuration.encode(config), *meshes], env=engine_environment(os.environ, Placement())
    )
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


def check_meshes(checkpoint: Path, device: str, count: int, meshes: list[str], folder: Path) -> None:
    with running_engine(checkpoint, device=device.partition(":")[0]) as client:
        expected = tokens_of(client, REQUESTS)
    assert len({tuple(tokens) for tokens in expected.values()}) > 10, "the requests do not tell much apart"
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
