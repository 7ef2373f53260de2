# SPDX-License-Identifier: BSD-3-Clause
"""What is copied arrives as it was when the copy began, however many copies are on their way."""

import numpy as np
import pytest
import torch

from fastertransformer.runtime import transfer
from fastertransformer.runtime.transfer import HostCopy, filled, to_device

COPIES = 48
SIZES = [(1, COPIES), (1000, COPIES), (transfer._LARGEST + 1, 4)]
"""Numbers of a copy, and how many copies."""


def keep_busy(device: torch.device) -> None:
    """For milliseconds, in which a host that does not wait starts many copies."""
    if device.type == "cuda":
        torch.cuda._sleep(20_000_000)


@pytest.mark.parametrize(("size", "count"), SIZES)
def test_memory_of_a_copy_on_its_way_is_not_written(device, size, count):
    keep_busy(device)
    copies = [to_device([np.full(size, number, np.int32)], device) for number in range(count)]
    assert [(int(copy[0]), int(copy[-1]), len(copy)) for copy in copies] == [
        (number, number, size) for number in range(count)
    ]


def test_slots_grow_while_copies_are_on_their_way(device):
    keep_busy(device)
    sizes = [1 << (number % 15) for number in range(COPIES)]
    copies = [to_device([np.arange(size, dtype=np.int32)], device) for size in sizes]
    assert all(copy.tolist() == list(range(size)) for copy, size in zip(copies, sizes, strict=True))


def test_arrays_lie_side_by_side_in_the_memory_that_is_given(device):
    memory = torch.zeros(8, dtype=torch.int32, device=device)
    arrays = [np.arange(1, 5, dtype=np.int32).reshape(2, 2), np.arange(5, 9, dtype=np.int32)]
    assert to_device(arrays, device, memory) is memory
    assert memory.tolist() == list(range(1, 9))
    assert filled(8, lambda host: host.fill(3), device, memory) is memory
    assert memory.tolist() == [3] * 8


@pytest.mark.parametrize(("size", "count"), SIZES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.float64])
def test_results_that_are_held_stay_what_they_were(device, size, count, dtype):
    tensors = [torch.full((size,), number, dtype=dtype, device=device) for number in range(count)]
    early = [HostCopy(tensor).wait() for tensor in tensors[::2]]
    keep_busy(device)
    on_their_way = [HostCopy(tensor) for tensor in tensors]
    late = [copy.wait() for copy in reversed(on_their_way)]
    for tensor, values in zip([*tensors[::2], *reversed(tensors)], [*early, *late], strict=True):
        assert values.dtype == tensor.cpu().numpy().dtype
        assert (values == float(tensor[0])).all()


def test_results_keep_their_shape_and_may_be_asked_for_twice(device):
    tensor = torch.arange(12, dtype=torch.float32, device=device).view(3, 4)
    copy, other = HostCopy(tensor), HostCopy(tensor.T)
    assert copy.wait().tolist() == copy.wait().tolist() == tensor.tolist()
    assert HostCopy(tensor[1:2]).wait().tolist() == [[4, 5, 6, 7]]
    assert other.wait().tolist() == tensor.T.tolist()
    assert HostCopy(tensor[:0]).wait().shape == (0, 4)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [100, 100_000])
def test_memory_is_used_again_when_nobody_reads_it(size):
    first = torch.arange(size, dtype=torch.int16, device="cuda")
    values = HostCopy(first).wait()
    address = values.ctypes.data
    row = values.reshape(2, -1)[1]
    del values
    assert HostCopy(first + 1).wait().ctypes.data != address
    assert row.tolist() == first[size // 2 :].tolist()
    del row
    addresses = {HostCopy(first + number).wait().ctypes.data for number in range(5)}
    assert address in addresses
    assert len(addresses) <= 2
    HostCopy(first)  # nobody waits for it
    assert HostCopy(first + 3).wait().tolist() == (first + 3).tolist()


@pytest.mark.gpu
def test_slots_made_in_inference_mode_serve_without_it():
    with torch.inference_mode():
        tensor = torch.full((3,), 7, dtype=torch.int16, device="cuda")
        assert HostCopy(tensor).wait().tolist() == [7, 7, 7]
    outside = torch.full((3,), 8, dtype=torch.int16, device="cuda")
    assert HostCopy(outside).wait().tolist() == [8, 8, 8]
