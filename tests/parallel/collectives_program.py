# SPDX-License-Identifier: BSD-3-Clause
"""Run by mpirun: every collective against its closed form, and those of GPU ranks over gloo on CPUs.

Usage: collectives_program.py T P. All in one program: ranks take seconds to start.
"""

import sys
import time
import traceback

import numpy as np
import torch

from fastertransformer.layers.norm import RmsNorm
from fastertransformer.parallel.comm import Communicator
from fastertransformer.parallel.mpi import MpiWorld, abort
from fastertransformer.parallel.nccl import NcclCommunicator, process_groups

from mpi4py import MPI  # isort: skip - after the import that chooses its thread level

AWKWARD = (1, 31, 257)


def check_tensor_group(world: MpiWorld) -> None:
    """Sums and concatenations, contiguous or not, in every dtype the models use."""
    group = world.tensor_group
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for size in AWKWARD:
            x = torch.full((3, size), float(group.rank + 1), dtype=dtype)
            total = sum(range(1, group.size + 1))
            assert (group.all_reduce(x) == total).all()
            assert (x == total).all(), "all_reduce is in place"
            check_norm(group, size, dtype)
            parts = [(torch.arange(2 * size).view(size, 2).t() % 50 + r).to(dtype) for r in range(group.size)]
            assert torch.equal(group.all_gather(parts[group.rank], 1), torch.cat(parts, 1))


def check_norm(group: Communicator, size: int, dtype: torch.dtype) -> None:
    """A residual sum and a norm behind the sum over the ranks."""
    norm = RmsNorm(torch.arange(size).to(dtype), 1e-5)
    ranks = sum(range(1, group.size + 1))
    whole = torch.arange(3 * size).view(3, size) % 7
    residual, expected_residual = torch.ones((2, 3, size), dtype=dtype)
    expected = norm.add((whole * ranks).to(dtype), expected_residual)
    normed = group.all_reduce_norm((whole * (group.rank + 1)).to(dtype), residual, norm)
    assert torch.equal(normed, expected)
    assert torch.equal(residual, expected_residual)


def check_pipeline(world: MpiWorld) -> None:
    """Hidden states go down the stages, samples come back, several batches in flight."""
    mesh, pipeline, batches = world.mesh, world.pipeline, 3
    for batch in range(batches):
        if mesh.is_first_stage:
            hidden = torch.full((2, 5), float(batch), dtype=torch.bfloat16)
        else:
            hidden = pipeline.receive_hidden((2, 5), torch.bfloat16, torch.device("cpu"))
            assert (hidden == batch + mesh.pp_rank).all()
        if not mesh.is_last_stage:
            pipeline.send_hidden(hidden + 1)
        else:
            contexts = torch.full((batch, 3), 0.1 + batch, dtype=torch.float64)
            tokens = torch.tensor([batch, 7], dtype=torch.int32)
            logits = torch.full((2 * batch, 4), 0.5 + batch)
            pipeline.return_samples(tokens, torch.tensor([0.5, batch]), contexts, logits)
    if mesh.rank == 0 and mesh.pp_size > 1:
        for batch in range(batches):
            tokens, logprobs, contexts, logits = pipeline.receive_samples(2, (batch, 3), (2 * batch, 4))
            assert contexts.tolist() == [[0.1 + batch] * 3] * batch
            assert tokens.tolist() == [batch, 7]
            assert logprobs.tolist() == [0.5, batch]
            assert logits.tolist() == [[0.5 + batch] * 4] * 2 * batch


def check_control(world: MpiWorld) -> None:
    """Plans arrive in order, also after a pause in which the followers sleep."""
    for number in range(4):
        plan = {"number": number, "tokens": np.arange(1000 * number)}
        if world.mesh.rank == 0 and number == 2:
            time.sleep(0.3)
        received = world.control.broadcast(plan if world.mesh.rank == 0 else None)
        assert received["number"] == number
        assert (received["tokens"] == plan["tokens"]).all()
    assert world.control.broadcast(None) is None
    assert world.minimum(world.mesh.rank + 5) == 5


def check_process_groups(world: MpiWorld) -> None:
    """Who is in which group, and what the communicator makes of tensors that are not contiguous."""
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
        check_norm(group, 5, torch.float32)
    if stages is not None:
        chain = NcclCommunicator(stages)
        hidden = torch.full((2, 5), -1.0)
        if not mesh.is_first_stage:
            chain.recv(hidden, mesh.pp_rank - 1)
            assert (hidden == mesh.rank - mesh.tp_size).all()
        if not mesh.is_last_stage:
            chain.send(torch.full((5, 2), float(mesh.rank)).t(), mesh.pp_rank + 1)


def main(world: MpiWorld) -> None:
    check_tensor_group(world)
    check_pipeline(world)
    check_control(world)
    check_process_groups(world)
    print(f"rank {world.mesh.rank} of {world.mesh.size} is fine", flush=True)


if __name__ == "__main__":
    try:
        world = MpiWorld(int(sys.argv[1]), int(sys.argv[2]))
        main(world)
    except Exception:
        traceback.print_exc()
        abort(1)
