# SPDX-License-Identifier: BSD-3-Clause
"""Times sums over ranks on each of them, and checks every sum that it has timed."""

import itertools
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from ....errors import FasterTransformerError
from ....parallel.world import World
from ..timing import Call, capture_graph, seconds
from .ways import Way

_SECONDS = 5e-3
_MOST_LAUNCHES = 256
_MOST_BYTES = 1 << 30
"""A row of launches lasts that long, has that many or sums that much, so that its start weighs little."""
_RUNS = 5
_LARGEST = 8
"""Of the summed integers: 8 ranks reach 64, which every data type holds exactly in every order."""


def measure_sums(
    world: World, ways: Iterable[Way], sizes: Iterable[int], dtype: torch.dtype
) -> Iterator[tuple[Way, int, float]]:
    """Seconds of every size and way, equal on all ranks. Sizes are in bytes.

    Raises:
        FasterTransformerError: a sum is wrong.
        RuntimeError: a rank did not come.
    """
    for num_bytes, way in itertools.product(sizes, ways):
        if way.max_bytes is None or num_bytes <= way.max_bytes:
            yield way, num_bytes, _seconds(world, way, num_bytes // dtype.itemsize, dtype)


def _seconds(world: World, way: Way, size: int, dtype: torch.dtype) -> float:
    spare = torch.ones(size, dtype=dtype, device=world.device)
    meet = partial(way.run, spare, torch.zeros_like(spare)) if way.adds else partial(way.run, spare)
    meet()
    launches = max(1, min(_MOST_LAUNCHES, int(_SECONDS / _slowest(world, meet)), _MOST_BYTES // spare.nbytes))
    own = _parts(world.mesh.rank, launches, size, world.device)
    given = own.to(dtype)
    sums = torch.zeros_like(given) if way.adds else given

    def all_sums() -> None:
        for arguments in zip(given, sums, strict=True) if way.adds else zip(given, strict=True):
            way.run(*arguments)

    replay = capture_graph(all_sums).replay if world.device.type == "cuda" else all_sums
    best = float("inf")
    for _ in range(_RUNS):
        sums.zero_()
        given.copy_(own)
        best = min(best, _slowest(world, replay, meet))
    _check(world, way, sums)
    return best / launches


def _slowest(world: World, call: Call, meet: Call | None = None) -> float:
    """Seconds of `call` on the last rank to end it.

    Args:
        meet: goes first on the device and is not counted: ranks come from it at the same time.
    """
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    world.minimum(0)
    if meet is not None:
        meet()
    own = seconds(call, world.device)
    world.check()
    return -world.minimum(-round(own * 1e9)) / 1e9


def _parts(rank: int, count: int, size: int, device: torch.device) -> Tensor:
    """What `rank` brings: [count, size] int8, never all zeros, the same wherever it is computed."""
    generator = torch.Generator(device).manual_seed(rank)
    shape = (count, size)
    return torch.randint(-_LARGEST, _LARGEST + 1, shape, generator=generator, device=device, dtype=torch.int8)


def _check(world: World, way: Way, sums: Tensor) -> None:
    count, size = sums.shape
    expected = _parts(0, count, size, world.device)
    for rank in range(1, world.mesh.size):
        expected += _parts(rank, count, size, world.device)
    if wrong := int((sums != expected).sum()):
        raise FasterTransformerError(
            f"rank {world.mesh.rank} of {world.mesh.size}: {wrong} of {sums.numel()} elements "
            f"summed by {way.name}, {sums[0].nbytes} bytes at a time, are wrong"
        )
