# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: equal requests that arrive together, and the figures that come of it."""

import random
import statistics
from itertools import pairwise

from msgspec import Struct


class Workload(Struct, frozen=True):
    """`batch` requests of random token ids arrive at once; each generates `output_len` tokens greedily."""

    batch: int
    input_len: int
    output_len: int
    vocab_size: int
    seed: int = 0

    def prompts(self) -> list[list[int]]:
        """Equal for every system that is measured; special tokens, mostly the first ids, are left out."""
        source = random.Random(self.seed)
        low = min(100, self.vocab_size // 2)
        return [
            [source.randrange(low, self.vocab_size) for _ in range(self.input_len)] for _ in range(self.batch)
        ]


class Measurement(Struct, frozen=True, kw_only=True):
    """One run of a workload."""

    ttft_ms: float
    """Mean time to the first token."""
    token_ms_p50: float
    """Between one token and the next of a request."""
    token_ms_p99: float
    tokens_per_second: float
    """All generated tokens over the whole time, prompts included."""
    tokens: list[list[int]]
    """What was generated, to compare."""


def measure(arrivals: list[list[float]], tokens: list[list[int]]) -> Measurement:
    """Figures of one run.

    Args:
        arrivals: for each request, seconds from the start to each of its tokens.
    """
    gaps = [later - earlier for times in arrivals for earlier, later in pairwise(times)]
    total = max(times[-1] for times in arrivals)
    return Measurement(
        ttft_ms=statistics.mean(times[0] for times in arrivals) * 1e3,
        token_ms_p50=percentile(gaps, 50) * 1e3,
        token_ms_p99=percentile(gaps, 99) * 1e3,
        tokens_per_second=sum(map(len, tokens)) / total,
        tokens=tokens,
    )


def median(runs: list[Measurement]) -> Measurement:
    """The run whose throughput is the middle one (the lower of two)."""
    return sorted(runs, key=lambda run: run.tokens_per_second)[(len(runs) - 1) // 2]


def percentile(values: list[float], percent: int) -> float:
    """Nearest rank; 0 when there is nothing to rank, as with a single token."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]
