# SPDX-License-Identifier: BSD-3-Clause
"""Prometheus families of the engine, on the server's own metrics endpoint."""

import re

import client_tools as ct
from tiny_models import LONG
from triton_process import TritonServer, stopped, wait_for


def value(text: str, family: str, **labels: str) -> float | None:
    wanted = [f'{key}="{label}"' for key, label in labels.items()]
    for line in text.splitlines():
        if line.startswith(f"{family}{{") and all(label in line for label in wanted):
            return float(re.split(r"\s+", line)[-1])
    return None


def wait_for_metric(server: TritonServer, wanted: float, family: str, **labels: str) -> None:
    """Metrics are published every second."""
    what = f"{wanted} is {family} {labels}"
    wait_for(lambda: value(server.metrics(), family, **labels) == wanted, 60, what)


def test_engine_metrics(server: TritonServer) -> None:
    blocks = {"family": "nv_trt_llm_kv_cache_block_metrics", "model": "streaming"}
    states = {"family": "nv_trt_llm_request_metrics", "model": "streaming"}
    ranks = server.ranks()
    with ct.open_stream(server.grpc) as stream:
        stream.send("streaming", ct.core_inputs([[11], [12], [13]], LONG, min_length=LONG))
        stream.next()
        with stopped(ranks):  # the request cannot end before its metrics are published
            wait_for_metric(server, 3, **states, request_type="scheduled")
            wait_for_metric(server, 3, **states, request_type="active")
            wait_for_metric(server, 0, **states, request_type="waiting")
            wait_for_metric(server, 16, **blocks, kv_cache_block_type="tokens_per")
            total = value(server.metrics(), **blocks, kv_cache_block_type="max")
            assert total == 2560
    wait_for_metric(server, 0, **states, request_type="active")


def test_latency_histograms(server: TritonServer) -> None:
    names = "fastertransformer_time_to_first_token_seconds", "fastertransformer_inter_token_seconds"
    text = server.metrics()
    before = [value(text, f"{name}_count", model="gpt") or 0 for name in names]
    ct.grpc_infer(server.grpc, "gpt", ct.core_inputs([[11], [12], [13]], 5, min_length=5))
    wait_for_metric(server, before[0] + 3, f"{names[0]}_count", model="gpt")
    wait_for_metric(server, before[1] + 12, f"{names[1]}_count", model="gpt")
