# SPDX-License-Identifier: BSD-3-Clause
"""Times the cases: launches that follow each other, each on other buffers than the one before."""

from functools import partial

import torch
from msgspec import Struct
from torch import Tensor

from .... import ops
from ....models.data_types import DTYPES
from ....ops.registry import has_kernel
from ..machine import Machine
from ..timing import Call, seconds, seconds_per_call
from .case import Arguments, Case, Inputs

_CPU_CACHE_BYTES = 32 << 20
_CACHES = 4
"""Buffers that are not to be found in the cache again fill it so many times."""
_MOST_COPIES = 32
_SECONDS = 2e-3
_MOST_LAUNCHES = 128
"""A row of launches lasts that long or has that many, so that its start weighs little."""


class KernelRow(Struct, frozen=True, kw_only=True):
    """One case on this machine; our figures are None where no kernel of the device takes it."""

    op: str
    sizes: str
    us: float | None
    gb_per_second: float | None
    tflops: float | None
    ceiling: str
    """bandwidth or matrix, whichever bounds the case."""
    share: float | None
    """Of that ceiling."""
    torch_us: float
    torch_is_eager: bool
    """On a GPU: it reads back from the device, so it is in no graph and waits for the host."""
    speed_up: float | None
    """Torch's time over ours."""


def measure_case(case: Case, machine: Machine) -> KernelRow:
    """Ours, then torch."""
    inputs = Inputs(torch.device(machine.device), DTYPES[machine.data_type])
    arguments = case.make(inputs)
    copies = num_copies(arguments, inputs.device)
    is_ours = has_kernel(machine.device, case.op) and case.is_taken(arguments)
    ours = _seconds_of_kernel(case, inputs, copies) if is_ours else None
    peers = [case.peer(inputs) for _ in range(copies)]
    return kernel_row(case, machine, ours, _seconds(peers, inputs.device, case.capturable))


def kernel_row(case: Case, machine: Machine, ours: float | None, theirs: float) -> KernelRow:
    """Figures of one case from seconds."""
    bounds = {
        "bandwidth": case.num_bytes / machine.read_bandwidth,
        "matrix": case.flops / machine.matrix_rate,
    }
    ceiling = max(bounds, key=lambda name: bounds[name])
    return KernelRow(
        op=case.op,
        sizes=case.sizes,
        us=None if ours is None else ours * 1e6,
        gb_per_second=None if ours is None else case.num_bytes / ours / 1e9,
        tflops=None if ours is None else case.flops / ours / 1e12,
        ceiling=ceiling,
        share=None if ours is None else bounds[ceiling] / ours,
        torch_us=theirs * 1e6,
        torch_is_eager=machine.device == "cuda" and not case.capturable,
        speed_up=None if ours is None else theirs / ours,
    )


def _seconds_of_kernel(case: Case, inputs: Inputs, copies: int) -> float:
    function = getattr(ops, case.op)
    return _seconds([partial(function, *case.make(inputs)) for _ in range(copies)], inputs.device)


def _seconds(calls: list[Call], device: torch.device, capture: bool = True) -> float:
    with torch.inference_mode():
        calls[0]()
        launches = min(_MOST_LAUNCHES, int(_SECONDS / seconds(calls[0], device)))
        rounds = max(1, launches // len(calls))
        return seconds_per_call(calls * rounds, device, capture)


def num_copies(arguments: Arguments, device: torch.device) -> int:
    """How many sets of arguments are needed so that none is found in the cache when its turn comes."""
    size = sum(value.nbytes for value in arguments if isinstance(value, Tensor))
    cache = _CPU_CACHE_BYTES
    if device.type == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, min(_MOST_COPIES, -(-_CACHES * cache // size)))
