# SPDX-License-Identifier: BSD-3-Clause
"""Run by mpirun: every collective against its closed form. Usage: collectives_program.py T P"""

import sys
import time
import traceback

import numpy as np
import torch

from fastertransformer.parallel.mpi import MpiWorld, abort

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
            parts = [(torch.arange(2 * size).view(size, 2).t() % 50 + r).to(dtype) for r in range(group.size)]
            assert torch.equal(group.all_gather(parts[group.rank], 1), torch.cat(parts, 1))


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
            pipeline.return_samples(tokens, torch.tensor([0.5, batch]), contexts)
    if mesh.rank == 0 and mesh.pp_size > 1:
        for batch in range(batches):
            tokens, logprobs, contexts = pipeline.receive_samples(2, (batch, 3))
            assert contexts.tolist() == [[0.1 + batch] * 3] * batch
            assert tokens.tolist() == [batch, 7]
            assert logprobs.tolist() == [0.5, batch]


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


def main(world: MpiWorld) -> None:
    check_tensor_group(world)
    check_pipeline(world)
    check_control(world)
    print(f"rank {world.mesh.rank} of {world.mesh.size} is fine", flush=True)


if __name__ == "__main__":
    try:
        world = MpiWorld(int(sys.argv[1]), int(sys.argv[2]))
        main(world)
    except Exception:
        traceback.print_exc()
        abort(1)
