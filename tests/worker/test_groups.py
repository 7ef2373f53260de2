# SPDX-License-Identifier: BSD-3-Clause
"""Twice as many instances as GPU groups: an engine for each group, its weights once, and all compute."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from engine_runs import DEADLINE_S, mixed_requests, tokens_of
from tiny_llama import write_llama

from fastertransformer.config import CacheConfig, EngineConfig, ParallelConfig
from fastertransformer.server.client import EngineClient
from fastertransformer.server.launcher import Launcher
from fastertransformer.server.placement import place, visible_gpus

FAKE_GPUS = ("77", "78")
"""Engines with device cpu do not look for them."""
REQUESTS = mixed_requests()[:14]
CACHE_BYTES = 8 << 20
"""Less than what an engine takes on a GPU."""


def used_memory(gpus: int) -> list[int]:
    """Bytes that are taken on each GPU, by whomever."""
    return [total - free for free, total in map(torch.cuda.mem_get_info, range(gpus))]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_instances_of_a_group_share_an_engine(device, tmp_path):
    gpus = FAKE_GPUS if device == "cpu" else visible_gpus()
    tp_size = 1 if device == "cpu" or len(gpus) % 2 else 2
    num_groups = len(gpus) // tp_size
    config = EngineConfig(
        model_checkpoint_path=str(write_llama(tmp_path)),
        parallel=ParallelConfig(tensor_para_size=tp_size),
        cache=CacheConfig(max_tokens=1024, block_size=8),
        device=device,
        num_threads=1,
    )
    clients: list[EngineClient] = []
    used: list[list[int]] = []
    with contextlib.ExitStack() as stack:
        for instance in range(2 * num_groups):
            placement = place(instance, 2 * num_groups, config.parallel, gpus)
            launcher = Launcher(config, placement, start_timeout=DEADLINE_S)
            clients.append(launcher.attach())
            stack.callback(launcher.detach, clients[-1])
            if device == "cuda" and (instance + 1) % num_groups == 0:
                used.append(used_memory(len(gpus)))
        engines = [client.pid for client in clients]
        assert engines[:num_groups] == engines[num_groups:]
        assert len(set(engines)) == num_groups
        for first, second in zip(*used, strict=True):
            assert second - first < CACHE_BYTES
        with ThreadPoolExecutor(len(clients)) as pool:
            answers = list(pool.map(lambda client: tokens_of(client, REQUESTS), clients))
    assert answers == answers[:1] * len(clients)
    assert len(set(map(tuple, answers[0].values()))) > 10, "the requests do not tell much apart"
