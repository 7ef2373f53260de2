# SPDX-License-Identifier: BSD-3-Clause
"""Prometheus metrics of the engine, under the names that load balancers know from TensorRT-LLM."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..messages import EngineStats

_BUCKETS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]

_KV_CACHE = "nv_trt_llm_kv_cache_block_metrics"
# family, label, help, and the value of that label -> gauge
_GAUGES: Sequence[tuple[str, str, str, Mapping[str, Callable[[EngineStats], float]]]] = (
    (
        "nv_trt_llm_request_metrics",
        "request_type",
        "Requests by state",
        {
            "active": lambda stats: stats.num_running + stats.num_waiting,
            "scheduled": lambda stats: stats.num_running,
            "waiting": lambda stats: stats.num_waiting,
        },
    ),
    (
        _KV_CACHE,
        "kv_cache_block_type",
        "Blocks of the KV cache",
        {
            "max": lambda stats: stats.num_total_blocks,
            "free": lambda stats: stats.num_free_blocks,
            "used": lambda stats: stats.num_total_blocks - stats.num_free_blocks,
            "fraction": lambda stats: (
                1 - stats.num_free_blocks / stats.num_total_blocks if stats.num_total_blocks else 0.0
            ),
        },
    ),
    (
        "nv_trt_llm_general_metrics",
        "general_type",
        "Counts since the engine started",
        {
            "prefix_hit_tokens": lambda stats: stats.num_prefix_hit_tokens,
            "preemptions": lambda stats: stats.num_preemptions,
        },
    ),
)


_HISTOGRAMS = {
    True: (
        "fastertransformer_time_to_first_token_seconds",
        "From the arrival of a request to its first token",
    ),
    False: ("fastertransformer_inter_token_seconds", "Between two steps of a request that gave it tokens"),
}


def _immortal(metric: Any) -> Any:
    """Never destroyed: at the end of the stub that crashes the stub, before it the server (2.51)."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(metric))
    return metric


class Metrics:
    """Collects in the responder's thread at no cost; `publish` is slow and runs in another one.

    Without families (a server with metrics switched off) it collects and drops.
    """

    def __init__(self) -> None:
        self.stats = EngineStats()
        self._latencies: list[tuple[bool, float]] = []
        self._gauges: list[tuple[Any, Callable[[EngineStats], float]]] = []
        self._histograms: dict[bool, Any] = {}

    def create_families(self, pb_utils: Any, labels: Mapping[str, str], block_size: int) -> None:
        """Args: labels: of every metric. Raises: pb_utils.TritonModelException: metrics are switched off."""
        kind = pb_utils.MetricFamily
        for name, label, help_text, values in _GAUGES:
            family = _immortal(kind(name=name, description=help_text, kind=kind.GAUGE))
            self._gauges += [
                (_immortal(family.Metric(labels={**labels, label: key})), value)
                for key, value in values.items()
            ]
            if name == _KV_CACHE:
                tokens_per_block = _immortal(family.Metric(labels={**labels, label: "tokens_per"}))
                self._gauges.append((tokens_per_block, lambda _stats: block_size))
        for is_first, (name, help_text) in _HISTOGRAMS.items() if hasattr(kind, "HISTOGRAM") else ():
            family = _immortal(kind(name=name, description=help_text, kind=kind.HISTOGRAM))
            self._histograms[is_first] = _immortal(family.Metric(labels=dict(labels), buckets=_BUCKETS_S))

    def observe(self, is_first: bool, seconds: float) -> None:
        """One request got its first or its next tokens, `seconds` after it came or had the ones before."""
        self._latencies.append((is_first, seconds))

    def publish(self) -> None:
        """Tells the server the newest state; every number is one message to it."""
        stats, latencies, self._latencies = self.stats, self._latencies, []
        for metric, value in self._gauges:
            metric.set(value(stats))
        for is_first, seconds in latencies if self._histograms else ():
            self._histograms[is_first].observe(seconds)
