# SPDX-License-Identifier: BSD-3-Clause
"""Many ranks generate what one generates, on every mesh that they can form."""

from pathlib import Path

import pytest
import torch
from engine_runs import DEADLINE_S, engine_config, mixed_requests, running_engine, tokens_of
from ranks import Ranks
from tiny_llama import write_llama

REQUESTS = mixed_requests()[:14]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def expected(checkpoint) -> dict[int, list[int]]:
    return tokens_of_one_rank(checkpoint, "cpu")


def tokens_of_one_rank(checkpoint: Path, device: str) -> dict[int, list[int]]:
    with running_engine(checkpoint, device=device) as client:
        tokens = tokens_of(client, REQUESTS)
    assert len(set(map(tuple, tokens.values()))) > 10, "the requests do not tell much apart"
    return tokens


@pytest.mark.parametrize("mesh", ["4x1", "1x4", "2x2", "8x1", "4x2", "2x4"])
def test_many_ranks(checkpoint, expected, mesh):
    tp_size, pp_size = map(int, mesh.split("x"))
    with running_engine(checkpoint, tp=tp_size, pp=pp_size) as client:
        assert tokens_of(client, REQUESTS) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("count", [2, 4])
def test_ranks_that_share_a_gpu(checkpoint, count):
    """Without NCCL, which wants a GPU for each: only what goes through the GPUs' own memory."""
    ranks = Ranks(count, "cuda:0")
    try:
        client = ranks.start(engine_config(checkpoint, tp=count, device="cuda"), DEADLINE_S)
        assert tokens_of(client, REQUESTS) == tokens_of_one_rank(checkpoint, "cuda")
        client.close()
    finally:
        ranks.stop()


@pytest.mark.gpu
@pytest.mark.parametrize("mesh", ["2x1", "1x2", "4x1", "2x2", "1x4", "8x1", "4x2", "2x4"])
def test_meshes_of_gpus(checkpoint, mesh):
    """As engines run: a GPU for each rank, NCCL and what goes through the GPUs' own memory."""
    tp_size, pp_size = map(int, mesh.split("x"))
    if tp_size * pp_size > torch.cuda.device_count():
        pytest.skip(f"needs {tp_size * pp_size} GPUs, there are {torch.cuda.device_count()}")
    expected = tokens_of_one_rank(checkpoint, "cuda")
    with running_engine(checkpoint, tp=tp_size, pp=pp_size, device="cuda") as client:
        assert tokens_of(client, REQUESTS) == expected
