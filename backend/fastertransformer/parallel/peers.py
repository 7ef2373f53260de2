# SPDX-License-Identifier: BSD-3-Clause
"""Collectives between the GPUs of one node, through each other's memory: csrc/cuda/all_reduce*.cu."""

import importlib
import platform
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .comm import Norm

Result = TypeVar("Result")

TIMEOUT_S = 5.0
"""How long a kernel waits for another rank; ranks that execute the same plans are never that far apart."""

# One shot sends N - 1 messages over a GPU's links; two shots send 2 (N - 1) / N of one and pay for a second
# trip, which takes as long as sending about 1 MB.
_KIB = 1 << 10
_ONE_SHOT_BYTES = {
    2: 512 * _KIB,
    3: 512 * _KIB,
    4: 512 * _KIB,
    5: 256 * _KIB,
    6: 256 * _KIB,
    7: 128 * _KIB,
    8: 128 * _KIB,
}
"""Ranks -> the largest sum of one shot. There are no other numbers of ranks."""

_ALIGNMENT = 16


class Meeting(Protocol):
    """What connecting needs of MPI: objects from all ranks to all ranks of a group."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def allgather(self, sendobj: Any) -> list[Any]: ...


class PeerAccessError(Exception):
    """GPUs cannot reach each other's memory: which and why. Raised on all ranks, or on none."""


class PeerCommunicator:
    """Tensor-parallel ranks of one node. Sums are fp32, in rank order; no call waits, all can be captured.

    Args:
        arena: a `_C.cuda.PeerArena` that was opened to those of the other ranks.
    """

    def __init__(self, arena: Any, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.max_gather_bytes: int = arena.slot_bytes
        """Of one rank's part; what is larger takes several kernels, as sums do."""
        self.max_sum_bytes: int = arena.slot_bytes * size
        self._block_bytes: int = arena.block_bytes
        self.arena = arena
        self._kernels = _kernels()

    def all_reduce(self, x: Tensor) -> Tensor:
        """In place if `x` is contiguous and begins at a multiple of 16 bytes."""
        x = _plain(x)
        return self.one_shot(x) if x.nbytes <= _ONE_SHOT_BYTES[self.size] else self.two_shots(x)

    def one_shot(self, x: Tensor) -> Tensor:
        """In place; `x` is contiguous, aligned and has at most `max_gather_bytes`."""
        self._kernels.all_reduce_one_shot(x, self.arena, torch.cuda.current_stream().cuda_stream)
        return x

    def two_shots(self, x: Tensor) -> Tensor:
        """In place; `x` is contiguous and aligned, and of any size."""
        stream = torch.cuda.current_stream().cuda_stream
        for part in torch.split(x.view(-1), self.max_sum_bytes // x.itemsize):
            self._kernels.all_reduce_two_shot(part, self.arena, stream)
        return x

    def all_reduce_norm(self, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        """In one kernel, with the same bits, if a block holds a row and all is contiguous and aligned."""
        is_one_shot = x.nbytes <= _ONE_SHOT_BYTES[self.size]
        longest = self._block_bytes * (2 if is_one_shot else 1)
        fits = _row_bytes(x) <= longest and _row_bytes(x) % _ALIGNMENT == 0
        tensors = (x, residual, norm.weight, norm.bias)
        if not fits or not all(_is_plain(each) for each in tensors if each is not None):
            return norm.add(self.all_reduce(x), residual)
        return (
            self.one_shot_norm(x, residual, norm) if is_one_shot else self.two_shots_norm(x, residual, norm)
        )

    def one_shot_norm(self, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        """All is contiguous and aligned, of at most `max_gather_bytes`; rows have a multiple of 16 bytes."""
        return self._normed(self._kernels.all_reduce_norm_one_shot, x, residual, norm, len(x))

    def two_shots_norm(self, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        """All is contiguous and aligned; rows have a multiple of 16 bytes, and a block holds one."""
        of_block = self._block_bytes // _row_bytes(x)
        at_once = of_block * self.size * (self.max_gather_bytes // self._block_bytes)
        return self._normed(self._kernels.all_reduce_norm_two_shot, x, residual, norm, at_once)

    def _normed(
        self, kernel: Callable[..., None], x: Tensor, residual: Tensor, norm: Norm, at_once: int
    ) -> Tensor:
        """Args: at_once: rows that one kernel takes."""
        out = torch.empty_like(x)
        stream = torch.cuda.current_stream().cuda_stream
        for rows in zip(*(torch.split(each, max(1, at_once)) for each in (out, x, residual)), strict=True):
            kernel(*rows, norm.weight, norm.bias, norm.eps, self.arena, stream)
        return out

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        """Of matrices, along their rows."""
        assert (x.dim(), dim) == (2, 1), "only columns are gathered"
        x, (rows, columns) = _plain(x), x.shape
        gathered = x.new_empty((rows, columns * self.size))
        at_once = max(1, rows)
        if x.nbytes > self.max_gather_bytes:
            at_once = self.max_gather_bytes // (columns * x.itemsize) // _ALIGNMENT * _ALIGNMENT
            assert at_once, f"{columns} columns are too many"
        stream = torch.cuda.current_stream().cuda_stream
        for out, part in zip(torch.split(gathered, at_once), torch.split(x, at_once), strict=True):
            self._kernels.all_gather_columns(out, part, self.arena, stream)
        return gathered

    def send(self, x: Tensor, to: int) -> None:
        raise AssertionError("pipeline stages talk through NCCL")

    def recv(self, out: Tensor, source: int) -> None:
        raise AssertionError("pipeline stages talk through NCCL")

    def check(self) -> None:
        """Costs nothing: reads one word of host memory.

        Raises:
            RuntimeError: some rank did not join a collective; what was computed since is wrong.
        """
        if (late := self.arena.late_rank) >= 0:
            raise RuntimeError(
                f"tensor-parallel rank {late} did not join a collective within {TIMEOUT_S:g} s, "
                f"rank {self.rank} does not wait any longer"
            )


def connect_peers(meeting: Meeting, device: torch.device) -> PeerCommunicator:
    """Opens the memory of all ranks of the group to each other, and tries it out.

    Raises:
        PeerAccessError: it does not work for some rank; on all ranks.
    """
    places = meeting.allgather((platform.node(), device.index))
    _on_all(meeting, lambda: _check_access(places, device))
    arena = _on_all(meeting, lambda: _kernels().PeerArena(meeting.rank, meeting.size, TIMEOUT_S))
    handles = meeting.allgather(_on_all(meeting, arena.handle))
    _on_all(meeting, lambda: arena.open(handles))
    peers = PeerCommunicator(arena, meeting.rank, meeting.size)
    _on_all(meeting, lambda: _try_out(peers, device))
    return peers


def _on_all(meeting: Meeting, step: Callable[[], Result]) -> Result:
    """Runs a step on every rank; what went wrong on one is raised on all, so that they go on alike."""
    result, trouble = None, ""
    try:
        result = step()
    except (RuntimeError, PeerAccessError) as error:
        trouble = str(error)
    if troubles := [text for text in meeting.allgather(trouble) if text]:
        raise PeerAccessError("; ".join(dict.fromkeys(troubles)))
    return result  # type: ignore[return-value]


def _check_access(places: list[tuple[str, int]], device: torch.device) -> None:
    if len(places) > max(_ONE_SHOT_BYTES):
        raise PeerAccessError(f"{len(places)} ranks; at most {max(_ONE_SHOT_BYTES)} share their memory")
    for node, index in places:
        if node != platform.node():
            raise PeerAccessError(f"tensor-parallel ranks are on several nodes: {platform.node()}, {node}")
        if index >= torch.cuda.device_count():
            raise PeerAccessError(f"GPU {index} is hidden from the rank on GPU {device.index}")
        if index != device.index and not torch.cuda.can_device_access_peer(device, index):
            raise PeerAccessError(f"GPU {device.index} has no peer access to GPU {index}")


def _try_out(peers: PeerCommunicator, device: torch.device) -> None:
    """There are machines that promise access and then deliver nothing, or something else."""
    for num_bytes in (1 << 12, 1 << 20):
        x = torch.arange(num_bytes // 4, dtype=torch.float32, device=device)
        expected = x * peers.size + sum(range(peers.size))
        equal = torch.equal(peers.all_reduce(x + peers.rank), expected)
        peers.check()
        if not equal:
            raise PeerAccessError(f"GPU {device.index} got wrong data from the others")


def _plain(x: Tensor) -> Tensor:
    return x if _is_plain(x) else x.clone(memory_format=torch.contiguous_format)


def _is_plain(x: Tensor) -> bool:
    return x.is_contiguous() and x.data_ptr() % _ALIGNMENT == 0


def _row_bytes(x: Tensor) -> int:
    return x.shape[1] * x.itemsize


def _kernels() -> Any:
    return importlib.import_module("fastertransformer._C").cuda
