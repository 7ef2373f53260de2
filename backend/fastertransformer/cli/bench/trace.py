# SPDX-License-Identifier: BSD-3-Clause
"""Where a GPU's time went, from the trace that torch's profiler writes (Chrome's trace event format)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


class Interval(NamedTuple):
    """Something that ran on the device; times in us."""

    start: float
    end: float
    name: str
    launch: int
    """Equal for all that one call of the host started, such as the kernels of a graph."""


@dataclass
class Account:
    """Times in us. An instant belongs to the kernel that ran first, so that overlaps count once."""

    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    times: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    gaps_within: float = 0.0
    """Nothing ran, between what one launch started: the device's own."""
    gaps_between: float = 0.0
    """Nothing ran until the next launch: the host was late."""

    @property
    def busy(self) -> float:
        return sum(self.times.values())


def device_intervals(trace: Mapping[str, Any]) -> list[Interval]:
    """What ran on the device."""
    return [
        Interval(event["ts"], event["ts"] + event["dur"], event["name"], event["args"].get("correlation", -1))
        for event in trace["traceEvents"]
        if event.get("cat") in _ON_DEVICE
    ]


def account(intervals: Iterable[Interval]) -> Account:
    """Every instant from the first start to the last end, given to a kernel or to a gap."""
    result = Account()
    reached, launch = None, -1
    for interval in sorted(intervals):
        reached = interval.start if reached is None else reached
        gap = max(0.0, interval.start - reached)
        if interval.launch == launch:
            result.gaps_within += gap
        else:
            result.gaps_between += gap
        result.calls[interval.name] += 1
        result.times[interval.name] += max(0.0, interval.end - max(interval.start, reached))
        if interval.end > reached:
            reached, launch = interval.end, interval.launch
    return result


def short_name(name: str) -> str:
    """A kernel's name without its return type, anonymous namespaces and parameters."""
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    depth = 0
    for index, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:index].rstrip()
    return name
