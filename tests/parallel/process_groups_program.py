# SPDX-License-Identifier: BSD-3-Clause
"""Run by mpirun: the process groups of GPU ranks, over gloo on CPUs. Usage: process_groups_program.py T P"""

import sys
import traceback

import torch

from fastertransformer.parallel.mpi import MpiWorld, abort
from fastertransformer.parallel.nccl import NcclCommunicator, process_groups

from mpi4py import MPI  # isort: skip - after the import that chooses its thread level


def main(world: MpiWorld) -> None:
    mesh = world.mesh
    tensor, stages = process_groups(MPI.COMM_WORLD, mesh, "gloo")
    assert (tensor is None) == (mesh.tp_size == 1)
    assert (stages is None) == (mesh.pp_size == 1)
    if tensor is not None:
        group = NcclCommunicator(tensor)
        assert (group.rank, group.size) == (mesh.tp_rank, mesh.tp_size)
        same_stage = [mesh.pp_rank * mesh.tp_size + rank for rank in range(mesh.tp_size)]
        x = torch.full((3, 5), float(mesh.rank)).t()
        assert (group.all_reduce(x) == sum(same_stage)).all()
        gathered = group.all_gather(torch.full((2, 3), mesh.rank), 1)
        assert torch.equal(gathered, torch.tensor(same_stage).repeat_interleave(3).expand(2, -1))
    if stages is not None:
        chain = NcclCommunicator(stages)
        hidden = torch.full((2, 5), -1.0)
        if not mesh.is_first_stage:
            chain.recv(hidden, mesh.pp_rank - 1)
            assert (hidden == mesh.rank - mesh.tp_size).all()
        if not mesh.is_last_stage:
            chain.send(torch.full((5, 2), float(mesh.rank)).t(), mesh.pp_rank + 1)
    print(f"rank {mesh.rank} of {mesh.size} is fine", flush=True)


if __name__ == "__main__":
    try:
        main(MpiWorld(int(sys.argv[1]), int(sys.argv[2])))
    except Exception:
        traceback.print_exc()
        abort(1)
