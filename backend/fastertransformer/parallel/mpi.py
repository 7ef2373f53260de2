# SPDX-License-Identifier: BSD-3-Clause
"""MPI, and nothing else here knows it: the control channel, and the data plane of CPU ranks.

Only the main thread calls MPI. Importing this module initialises it.
"""

import pickle
import sys
import time
from typing import Any, cast

import mpi4py
import numpy as np
import torch
from torch import Tensor

from ..errors import ModelLoadError
from .comm import Communicator
from .mesh import Mesh
from .pipeline import Pipeline, Samples
from .world import Control

mpi4py.rc.thread_level = "funneled"

from mpi4py import MPI  # noqa: E402 - the thread level must be chosen before the import initialises MPI

_HIDDEN_TAG = 1
_TOKENS_TAG = 2
_LOGPROBS_TAG = 3

_SPIN_SECONDS = 0.05
_LONGEST_NAP_SECONDS = 1e-3


def _host_view(x: Tensor) -> np.ndarray[Any, Any]:
    """Bytes of a contiguous CPU tensor, whatever its dtype."""
    assert x.is_contiguous()
    assert x.device.type == "cpu"
    return x.flatten().view(torch.uint8).numpy()


class MpiControl:
    """Pickled plans over a broadcast. A rank that waits gives its core away after a while."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self._size = np.zeros(1, np.int64)

    def broadcast(self, plan: Any) -> Any:
        payload = pickle.dumps(plan, pickle.HIGHEST_PROTOCOL) if self._comm.rank == 0 else b""
        self._size[0] = len(payload)
        self._wait(self._comm.Ibcast(self._size, root=0))
        data = bytearray(payload or int(self._size[0]))
        self._comm.Bcast(data, root=0)
        return plan if self._comm.rank == 0 else pickle.loads(data)

    def _wait(self, request: MPI.Request) -> None:
        """Spins while steps follow each other, then sleeps a little longer each time."""
        idle_since = time.monotonic() + _SPIN_SECONDS
        nap = 0.0
        while not request.Test():
            if time.monotonic() > idle_since:
                nap = min(nap + 2e-5, _LONGEST_NAP_SECONDS)
                time.sleep(nap)


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

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        gathered = torch.empty((self.size, *x.shape), dtype=x.dtype)
        self._comm.Allgather(_host_view(x.contiguous()), _host_view(gathered))
        return torch.cat(gathered.unbind(), dim)

    def send(self, x: Tensor, to: int) -> None:
        self._comm.Send(_host_view(x.contiguous()), to, _HIDDEN_TAG)

    def recv(self, out: Tensor, source: int) -> None:
        self._comm.Recv(_host_view(out), source, _HIDDEN_TAG)


class MpiPipeline:
    """Neighbours in the pipeline; `stages` holds the ranks that share this tensor-parallel rank."""

    def __init__(self, stages: MpiCommunicator, world: MPI.Intracomm, mesh: Mesh) -> None:
        self._stages = stages
        self._world = world
        self._mesh = mesh
        self._last_rank = mesh.tp_size * (mesh.pp_size - 1)
        self._sends: list[tuple[MPI.Request, np.ndarray[Any, Any]]] = []

    def send_hidden(self, hidden: Tensor) -> None:
        self._stages.send(hidden, self._mesh.pp_rank + 1)

    def receive_hidden(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        hidden = torch.empty(shape, dtype=dtype)
        self._stages.recv(hidden, self._mesh.pp_rank - 1)
        return hidden.to(device)

    def return_samples(self, tokens: Tensor, logprobs: Tensor) -> None:
        """Does not wait for rank 0, which may be busy with the next batch."""
        if self._mesh.pp_size == 1 or self._world.rank != self._last_rank:
            return
        self._sends = [(request, data) for request, data in self._sends if not request.Test()]
        for data, tag in ((tokens, _TOKENS_TAG), (logprobs, _LOGPROBS_TAG)):
            array = data.cpu().numpy()
            self._sends.append((self._world.Isend(array, 0, tag), array))

    def receive_samples(self, num_samples: int) -> Samples:
        tokens, logprobs = np.empty(num_samples, np.int32), np.empty(num_samples, np.float32)
        if num_samples:
            self._world.Recv(tokens, self._last_rank, _TOKENS_TAG)
            self._world.Recv(logprobs, self._last_rank, _LOGPROBS_TAG)
        return tokens, logprobs


class MpiWorld:
    """All ranks that mpirun started, laid out as a mesh.

    Raises:
        ModelLoadError: the number of ranks is not tensor_para_size x pipeline_para_size.
    """

    def __init__(self, tp_size: int, pp_size: int) -> None:
        self._comm = MPI.COMM_WORLD
        if self._comm.size != tp_size * pp_size:
            raise ModelLoadError(
                f"tensor_para_size {tp_size} x pipeline_para_size {pp_size} needs {tp_size * pp_size} ranks, "
                f"MPI started {self._comm.size}"
            )
        self.mesh = Mesh(tp_size, pp_size, self._comm.rank)
        self.tensor_group: Communicator = MpiCommunicator(self._split(self.mesh.pp_rank))
        stages = MpiCommunicator(self._split(self.mesh.tp_rank))
        self.pipeline: Pipeline = MpiPipeline(stages, self._comm, self.mesh)
        self.control: Control = MpiControl(self._comm.Dup())

    def _split(self, color: int) -> MPI.Intracomm:
        return cast(MPI.Intracomm, self._comm.Split(color, self._comm.rank))

    def minimum(self, value: int) -> int:
        return int(self._comm.allreduce(value, op=MPI.MIN))

    def sum(self, value: int) -> int:
        return int(self._comm.allreduce(value, op=MPI.SUM))


def abort(code: int) -> None:
    """Ends every rank at once; a rank that just left would wait for the others for ever."""
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(code)
