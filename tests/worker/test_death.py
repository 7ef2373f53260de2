# SPDX-License-Identifier: BSD-3-Clause
"""A rank is killed: clients hear of it at once, all ranks end, and whoever comes next starts new ones."""

import os
import signal
import time

import psutil
import pytest
import torch
from engine_runs import DEADLINE_S, MAX_LEN, tokens_of
from tiny_llama import write_llama

from fastertransformer.config import CacheConfig, EngineConfig, ParallelConfig
from fastertransformer.errors import EngineDead
from fastertransformer.messages import Request, SamplingParams, token_ids
from fastertransformer.server import processes
from fastertransformer.server.client import EngineClient
from fastertransformer.server.launcher import Launcher

REQUESTS = [Request(i, token_ids((i + 1, 2, 3)), SamplingParams(max_tokens=8, end_ids=())) for i in range(4)]
MOST_RANKS = 8
LEAVE_S = 30


def ranks(client: EngineClient) -> list[int]:
    """All of its engine: rank 0 is the one that the client talks to."""
    line = processes.command_line(client.pid)
    assert "fastertransformer.worker" in line
    return [pid for pid in psutil.pids() if processes.command_line(pid) == line]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_death_of_a_rank(device, tmp_path):
    """Of two ranks on a CPU; on GPUs of as many as there are, up to eight."""
    count = 2 if device == "cpu" else min(torch.cuda.device_count(), MOST_RANKS)
    config = EngineConfig(
        model_checkpoint_path=str(write_llama(tmp_path)),
        parallel=ParallelConfig(tensor_para_size=count),
        cache=CacheConfig(max_tokens=4096, block_size=8),
        device=device,
        num_threads=1,
    )
    launcher = Launcher(config, start_timeout=DEADLINE_S)
    client = launcher.attach()
    try:
        expected = tokens_of(client, REQUESTS)
        old = ranks(client)
        assert len(old) == count
        sampling = SamplingParams(max_tokens=MAX_LEN - 1, end_ids=())
        client.submit([Request(100 + i, token_ids((i + 1,)), sampling) for i in range(8)])
        outputs = client.outputs()
        next(outputs)
        os.kill(next((pid for pid in old if pid != client.pid), client.pid), signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(EngineDead):
            list(outputs)
        assert time.monotonic() - killed < LEAVE_S
        client.close()
        client = launcher.attach()
        assert not set(ranks(client)) & set(old)
        assert tokens_of(client, REQUESTS) == expected
        assert not any(map(processes.is_alive, old))
    finally:
        launcher.detach(client)
