# SPDX-License-Identifier: BSD-3-Clause
"""The data plane of GPU ranks: NCCL through torch.distributed, and `peers` where they are faster."""

import atexit
import logging
import platform
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..errors import ModelLoadError
from .comm import Communicator, Norm, SingleRank
from .mesh import Mesh
from .peers import Meeting, PeerAccessError, PeerCommunicator, connect_peers

_TIMEOUT = timedelta(seconds=60)
"""After which torch ends a rank whose collective nobody joined."""

_log = logging.getLogger("fastertransformer")


class NcclCommunicator:
    """Ranks of a process group. All calls go to the current stream and can be captured.

    Args:
        peers: does the same for small tensors; None where GPUs cannot reach each other's memory.
    """

    def __init__(self, group: dist.ProcessGroup, peers: PeerCommunicator | None = None) -> None:
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.group = group
        self.peers = peers

    def all_reduce(self, x: Tensor) -> Tensor:
        if self.peers is not None and x.nbytes <= self.peers.max_sum_bytes:
            return self.peers.all_reduce(x)
        x = x.contiguous()
        dist.all_reduce(x, group=self.group)
        return x

    def all_reduce_norm(self, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        if self.peers is not None and x.nbytes <= self.peers.max_sum_bytes:
            return self.peers.all_reduce_norm(x, residual, norm)
        return norm.add(self.all_reduce(x), residual)

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        if self.peers is not None and x.nbytes <= self.peers.max_gather_bytes:
            return self.peers.all_gather(x, dim)
        gathered = x.new_empty((self.size * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(gathered, x.contiguous(), group=self.group)
        return torch.cat(torch.chunk(gathered, self.size), dim)

    def send(self, x: Tensor, to: int) -> None:
        dist.send(x.contiguous(), group=self.group, group_dst=to)

    def recv(self, out: Tensor, source: int) -> None:
        dist.recv(out, group=self.group, group_src=source)


@dataclass(frozen=True, slots=True)
class GpuGroups:
    """The groups that one rank belongs to."""

    tensor: Communicator
    stages: Communicator
    peers: PeerCommunicator | None
    """Whose time-outs the engine must watch."""


def connect(world: Meeting, tensor: Meeting, mesh: Mesh, device: torch.device) -> GpuGroups:
    """Connects the ranks of `world`, each of which computes on its `device`, and warms the connections up.

    Args:
        tensor: the tensor-parallel ranks of this stage.

    Raises:
        ModelLoadError: ranks that share a GPU, which NCCL refuses, and that need NCCL.
    """
    places = world.allgather((platform.node(), device.index))
    peers = _peers(tensor, device) if mesh.tp_size > 1 else None
    if len(set(places)) < len(places):
        if mesh.pp_size > 1 or peers is None:
            raise ModelLoadError(f"ranks share a GPU, NCCL needs one for each: {places}")
        return GpuGroups(peers, SingleRank(), peers)
    tensor_group, stage_group = process_groups(world, mesh, "nccl", device)
    _warm_up(tensor_group, stage_group, mesh, device)
    return GpuGroups(_communicator(tensor_group, peers), _communicator(stage_group, None), peers)


def process_groups(
    world: Meeting, mesh: Mesh, backend: str, device: torch.device | None = None
) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup | None]:
    """(tensor-parallel ranks of this stage, stages of this tensor-parallel rank); None for a group of one."""
    dist.init_process_group(
        backend,
        store=_store(world),
        rank=world.rank,
        world_size=world.size,
        timeout=_TIMEOUT,
        device_id=device,
    )
    atexit.register(dist.destroy_process_group)
    tp, pp = mesh.tp_size, mesh.pp_size
    tensor = [dist.new_group(list(range(stage * tp, (stage + 1) * tp))) for stage in range(pp) if tp > 1]
    stages = [dist.new_group(list(range(rank, tp * pp, tp))) for rank in range(tp) if pp > 1]
    return (tensor[mesh.pp_rank] if tensor else None, stages[mesh.tp_rank] if stages else None)


def _store(world: Meeting) -> TCPStore:
    """Where torch.distributed keeps its addresses; on one node it cannot be reached from outside."""
    nodes = world.allgather(platform.node())
    host = "127.0.0.1" if len(set(nodes)) == 1 else nodes[0]
    if world.rank:
        return TCPStore(host, world.allgather(0)[0], timeout=_TIMEOUT)
    listener = socket.create_server(("127.0.0.1" if host == "127.0.0.1" else "", 0))
    port = listener.getsockname()[1]
    store = TCPStore(
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=_TIMEOUT,
        master_listen_fd=listener.detach(),
    )
    world.allgather(port)
    return store


def _peers(tensor: Meeting, device: torch.device) -> PeerCommunicator | None:
    try:
        return connect_peers(tensor, device)
    except PeerAccessError as error:
        if tensor.rank == 0:
            _log.warning("collectives go through NCCL alone, which is slower for small ones: %s", error)
        return None


def _communicator(group: dist.ProcessGroup | None, peers: PeerCommunicator | None) -> Communicator:
    return SingleRank() if group is None else NcclCommunicator(group, peers)


def _warm_up(
    tensor: dist.ProcessGroup | None, stages: dist.ProcessGroup | None, mesh: Mesh, device: torch.device
) -> None:
    """NCCL connects and allocates at the first use of each kind, which a graph's capture does not allow."""
    x = torch.zeros((1, 1), device=device)
    if tensor is not None:
        NcclCommunicator(tensor).all_reduce(x)
        NcclCommunicator(tensor).all_gather(x, 1)
    if stages is not None:
        if not mesh.is_first_stage:
            NcclCommunicator(stages).recv(x, mesh.pp_rank - 1)
        if not mesh.is_last_stage:
            NcclCommunicator(stages).send(x, mesh.pp_rank + 1)
    torch.cuda.synchronize(device)
