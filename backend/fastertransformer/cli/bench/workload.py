# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: equal requests that arrive together, and the figures that come of it."""

import random
import re
import statistics
from itertools import pairwise

from msgspec import Struct

from ...errors import FasterTransformerError

_FORM = re.compile(r"(\d+)x(\d+)/(\d+)")


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
        ids = range(min(100, self.vocab_size // 2), self.vocab_size)
        return [source.choices(ids, k=self.input_len) for _ in range(self.batch)]


def parse_workloads(text: str) -> list[tuple[int, int, int]]:
    """`8x128/32,1x1024/1`: requests, prompt tokens of each, generated tokens of each.

    Raises:
        FasterTransformerError: a part has another form, or a zero.
    """
    workloads = []
    for part in filter(None, text.split(",")):
        match = _FORM.fullmatch(part.strip())
        sizes = [int(size) for size in match.groups()] if match else [0]
        if min(sizes) == 0:
            raise FasterTransformerError(f"workload {part!r} is not of the form REQUESTSxINPUT/OUTPUT")
        workloads.append((sizes[0], sizes[1], sizes[2]))
    return workloads


class Measurement(Struct, frozen=True, kw_only=True):
    """One run of a workload."""

    ttft_ms: float
    """Mean time to the first token."""
    token_ms_p50: float
    """Between one token and the next of a request."""
    token_ms_p99: float
    tokens_per_second: float
    """All generated tokens over the whole time, prompts included."""
    total_ms: float
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
        total_ms=total * 1e3,
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
