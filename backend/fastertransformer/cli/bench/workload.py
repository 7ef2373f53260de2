# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: requests that arrive together, and the figures that come of it."""

import random
import re
import statistics
from itertools import pairwise
from typing import TypeVar

from msgspec import Struct

from ...errors import FasterTransformerError

_RANGE = r"(\d+)(?:-(\d+))?"
_FORM = re.compile(rf"(\d+)x{_RANGE}(?:/{_RANGE})?")


class Sizes(Struct, frozen=True):
    """How many requests, and how long they are."""

    batch: int
    input_len: int
    """Of the longest."""
    output_len: int = 0
    """Of the longest; 0 where inputs are encoded and nothing is generated."""
    shortest_input: int = 0
    shortest_output: int = 0
    """0: all are as long as the longest."""


class Workload(Struct, frozen=True):
    """Requests of random token ids arrive at once; each generates its output, greedily or by a beam search.

    Sizes are those of `Sizes`.
    """

    batch: int
    input_len: int
    output_len: int
    vocab_size: int
    seed: int = 0
    shortest_input: int = 0
    shortest_output: int = 0
    beam_width: int = 1

    def __str__(self) -> str:
        """REQUESTSxINPUT/OUTPUT as `parse_workloads` reads it, or REQUESTS*BEAMSxINPUT/OUTPUT."""
        requests = str(self.batch) if self.beam_width == 1 else f"{self.batch}*{self.beam_width}"
        inputs = _range(self.shortest_input, self.input_len)
        outputs = _range(self.shortest_output, self.output_len)
        return f"{requests}x{inputs}/{outputs}" if self.output_len else f"{requests}x{inputs}"

    @property
    def input_lens(self) -> list[int]:
        """Evenly from the shortest to the longest, in an order that is not that of the outputs."""
        return self._spread(self.shortest_input, self.input_len, self.seed)

    @property
    def output_lens(self) -> list[int]:
        return self._spread(self.shortest_output, self.output_len, self.seed + 1)

    def prompts(self) -> list[list[int]]:
        """Equal for every system that is measured; special tokens, mostly the first ids, are left out."""
        source = random.Random(self.seed)
        ids = range(min(100, self.vocab_size // 2), self.vocab_size)
        return [source.choices(ids, k=length) for length in self.input_lens]

    def _spread(self, shortest: int, longest: int, seed: int) -> list[int]:
        if not shortest:
            return [longest] * self.batch
        span, steps = longest - shortest, max(self.batch - 1, 1)
        lengths = [longest - span * i // steps for i in range(self.batch)]
        random.Random(seed).shuffle(lengths)
        return lengths


def _range(shortest: int, longest: int) -> str:
    return f"{shortest}-{longest}" if shortest else str(longest)


def parse_workloads(text: str) -> list[Sizes]:
    """`8x128/32,1x1024/1`: requests, prompt tokens of each, generated tokens of each; `32x16-128/8-64`: of
    lengths between; `64x8-128`: inputs to encode.

    Raises:
        FasterTransformerError: a part has another form, a zero, or a range that falls.
    """
    workloads = []
    for part in filter(None, text.split(",")):
        match = _FORM.fullmatch(part.strip())
        if match is None or 0 in map(int, filter(None, match.groups())):
            raise FasterTransformerError(
                f"workload {part!r} is not of the form REQUESTSxINPUT/OUTPUT or REQUESTSxINPUT"
            )
        batch, first_input, last_input, first_output, last_output = (
            int(size or 0) for size in match.groups()
        )
        if 0 < last_input < first_input or 0 < last_output < first_output:
            raise FasterTransformerError(f"workload {part!r} has a range that falls")
        workloads.append(
            Sizes(
                batch,
                last_input or first_input,
                last_output or first_output,
                first_input if last_input else 0,
                first_output if last_output else 0,
            )
        )
    return workloads


class Measurement(Struct, frozen=True, kw_only=True, tag=True):
    """One run of a workload that generates."""

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


def spread(seconds: float, count: int) -> list[float]:
    """When `count` tokens came of which it is only known that the last one came after `seconds`."""
    return [seconds * (i + 1) / count for i in range(count)]


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


class Encoding(Struct, frozen=True, kw_only=True, tag=True):
    """One run of a workload that encodes."""

    total_ms: float
    embeddings: list[list[float]]
    """Of every input, to compare."""


Run = TypeVar("Run", Measurement, Encoding)


def median(runs: list[Run]) -> Run:
    """The run whose throughput is the middle one (the lower of two)."""
    return sorted(runs, key=lambda run: -run.total_ms)[(len(runs) - 1) // 2]


def percentile(values: list[float], percent: int) -> float:
    """Nearest rank; 0 when there is nothing to rank, as with a single token."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]
