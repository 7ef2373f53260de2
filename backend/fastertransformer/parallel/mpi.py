# SPDX-License-Identifier: BSD-3-Clause
"""MPI, and nothing else here knows it: the control channel, sampled tokens, and the data plane of CPU ranks.

Only the main thread calls MPI. Importing this module initialises it.
"""

import pickle
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import mpi4py
import numpy as np
import torch
from torch import Tensor

from ..errors import ModelLoadError
from .comm import Communicator, Norm, SingleRank
from .mesh import Mesh
from .pipeline import Pipeline, Samples
from .world import CPU, Control

mpi4py.rc.thread_level = "funneled"

from mpi4py import MPI  # noqa: E402 - the thread level must be chosen before the import initialises MPI

_HIDDEN_TAG = 1
_TOKENS_TAG = 2
_LOGPROBS_TAG = 3
_CONTEXTS_TAG = 4
_LOGITS_TAG = 5
_RESULT_TAGS = (_TOKENS_TAG, _LOGPROBS_TAG, _CONTEXTS_TAG, _LOGITS_TAG)

_SPIN_SECONDS = 0.05
_LONGEST_NAP_SECONDS = 1e-3


def _host_view(x: Tensor) -> np.ndarray[Any, Any]:
    """Bytes of a contiguous CPU tensor, whatever its dtype."""
    assert x.is_contiguous()
    assert x.device.type == "cpu"
    return x.flatten().view(torch.uint8).numpy()


def _wait(request: MPI.Request, meanwhile: Callable[[], None]) -> None:
    """Spins while steps follow each other, then sleeps a little longer each time: idle ranks use no core.

    Args:
        meanwhile: what else this rank has to do; an exception ends the wait.
    """
    idle_since = time.monotonic() + _SPIN_SECONDS
    nap = 0.0
    while not request.Test():
        meanwhile()
        if time.monotonic() > idle_since:
            nap = min(nap + 2e-5, _LONGEST_NAP_SECONDS)
            time.sleep(nap)


class MpiControl:
    """Pickled plans over a broadcast."""

    def __init__(self, comm: MPI.Intracomm, meanwhile: Callable[[], None]) -> None:
        self._comm = comm
        self._meanwhile = meanwhile
        self._size = np.zeros(1, np.int64)

    def broadcast(self, plan: Any) -> Any:
        payload = pickle.dumps(plan, pickle.HIGHEST_PROTOCOL) if self._comm.rank == 0 else b""
        self._size[0] = len(payload)
        _wait(self._comm.Ibcast(self._size, root=0), self._meanwhile)
        data = bytearray(payload or int(self._size[0]))
        self._comm.Bcast(data, root=0)
        return plan if self._comm.rank == 0 else pickle.loads(data)


class MpiCommunicator:
    """Collectives over CPU tensors; 16-bit floats are summed in fp32, since MPI does not know them."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self.rank: int = comm.rank
        self.size: int = comm.size

    def all_reduce(self, x: Tensor) -> Tensor:
        total = x.float().contiguous()
        self._comm.Allreduce(MPI.IN_PLACE, total.numpy())
        return x.copy_(total) if total.data_ptr() != x.data_ptr() else x

    def all_reduce_norm(self, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        return norm.add(self.all_reduce(x), residual)

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        gathered = torch.empty((self.size, *x.shape), dtype=x.dtype)
        self._comm.Allgather(_host_view(x.contiguous()), _host_view(gathered))
        return torch.cat(gathered.unbind(), dim)

    def send(self, x: Tensor, to: int) -> None:
        self._comm.Send(_host_view(x.contiguous()), to, _HIDDEN_TAG)

    def recv(self, out: Tensor, source: int) -> None:
        self._comm.Recv(_host_view(out), source, _HIDDEN_TAG)


@dataclass(frozen=True, slots=True)
class _SamplesOnTheirWay:
    """Copies to the host; they have arrived when the event has come."""

    tensors: list[Tensor]
    """Tokens, log-probabilities, sums of hidden states, logits."""
    event: torch.cuda.Event | None

    def arrived(self) -> bool:
        return self.event is None or self.event.query()  # type: ignore[no-untyped-call]


class MpiPipeline:
    """Hidden states through `stages`, the ranks that share this tensor-parallel rank; samples through MPI."""

    def __init__(
        self, stages: Communicator, world: MPI.Intracomm, mesh: Mesh, check: Callable[[], None]
    ) -> None:
        self._stages = stages
        self._world = world
        self._mesh = mesh
        self._check = check
        self._last_rank = mesh.tp_size * (mesh.pp_size - 1)
        self._copies: deque[_SamplesOnTheirWay] = deque()
        self._sends: list[tuple[MPI.Request, np.ndarray[Any, Any]]] = []

    def send_hidden(self, hidden: Tensor) -> None:
        self._stages.send(hidden, self._mesh.pp_rank + 1)

    def receive_hidden(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        hidden = torch.empty(shape, dtype=dtype, device=device)
        self._stages.recv(hidden, self._mesh.pp_rank - 1)
        return hidden

    def return_samples(self, tokens: Tensor, logprobs: Tensor, contexts: Tensor, logits: Tensor) -> None:
        """Waits neither for the device nor for rank 0, which may be busy with the next batch."""
        if self._mesh.pp_size == 1 or self._world.rank != self._last_rank:
            return
        copies = [x.to("cpu", non_blocking=True) for x in (tokens, logprobs, contexts, logits)]
        event = torch.cuda.Event() if tokens.is_cuda else None  # type: ignore[no-untyped-call]
        if event is not None:
            event.record()
        self._copies.append(_SamplesOnTheirWay(copies, event))
        self.progress()

    def progress(self) -> None:
        """Sends on what has reached the host. The last stage comes by whenever it waits for a plan."""
        while self._copies and self._copies[0].arrived():
            self._check()  # or rank 0 would take what follows a time-out for tokens
            self._sends = [(request, data) for request, data in self._sends if not request.Test()]
            samples = self._copies.popleft()
            for data, tag in zip(samples.tensors, _RESULT_TAGS, strict=True):
                if data.numel():
                    self._sends.append((self._world.Isend(data.numpy(), 0, tag), data.numpy()))

    def receive_samples(
        self, num_samples: int, contexts: tuple[int, int], logits: tuple[int, int]
    ) -> Samples:
        samples: Samples = (
            np.empty(num_samples, np.int32),
            np.empty(num_samples, np.float32),
            np.empty(contexts, np.float64),
            np.empty(logits, np.float32),
        )
        wanted: tuple[np.ndarray[Any, Any], ...] = samples
        for data, tag in zip(wanted, _RESULT_TAGS, strict=True):
            if data.size:
                _wait(self._world.Irecv(data, self._last_rank, tag), self._check)
        return samples


class MpiWorld:
    """All ranks that mpirun started, laid out as a mesh.

    Args:
        device: what this rank computes on; on a GPU, tensors travel through NCCL and between GPUs directly.

    Raises:
        ModelLoadError: the number of ranks is not tensor_para_size x pipeline_para_size.
    """

    def __init__(self, tp_size: int, pp_size: int, device: torch.device = CPU) -> None:
        self._comm = MPI.COMM_WORLD
        if self._comm.size != tp_size * pp_size:
            raise ModelLoadError(
                f"tensor_para_size {tp_size} x pipeline_para_size {pp_size} needs {tp_size * pp_size} ranks, "
                f"MPI started {self._comm.size}"
            )
        self.mesh = Mesh(tp_size, pp_size, self._comm.rank)
        self.device = device
        self._check: Callable[[], None] = lambda: None
        self.tensor_group, stages = self._groups()
        self._pipeline = MpiPipeline(stages, self._comm, self.mesh, self.check)
        self.pipeline: Pipeline = self._pipeline
        self.control: Control = MpiControl(self._comm.Dup(), self._meanwhile)

    def _groups(self) -> tuple[Communicator, Communicator]:
        """Tensor-parallel ranks of this stage, and stages of this tensor-parallel rank."""
        tensor, stages = self._split(self.mesh.pp_rank), self._split(self.mesh.tp_rank)
        if self.device.type == "cpu":
            return _on_cpu(tensor), _on_cpu(stages)
        from . import nccl  # torch.distributed takes its time

        groups = nccl.connect(self._comm, tensor, self.mesh, self.device)
        if groups.peers is not None:
            self._check = groups.peers.check
        return groups.tensor, groups.stages

    def _split(self, color: int) -> MPI.Intracomm:
        return cast(MPI.Intracomm, self._comm.Split(color, self._comm.rank))

    def minimum(self, value: int) -> int:
        return int(self._comm.allreduce(value, op=MPI.MIN))

    def sum(self, value: int) -> int:
        return int(self._comm.allreduce(value, op=MPI.SUM))

    def check(self) -> None:
        self._check()

    def _meanwhile(self) -> None:
        """What a rank does while it waits for the next plan."""
        self._check()
        self._pipeline.progress()


def _on_cpu(comm: MPI.Intracomm) -> Communicator:
    return MpiCommunicator(comm) if comm.size > 1 else SingleRank()


def place_on_node() -> tuple[int, int]:
    """(number of this rank among those of its machine, how many they are)"""
    node = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    return node.rank, node.size


def abort(code: int) -> None:
    """Ends every rank at once; a rank that just left would wait for the others for ever."""
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(code)
