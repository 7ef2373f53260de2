# SPDX-License-Identifier: BSD-3-Clause
"""One rank of `bench-collectives` under mpirun; its argument is a Job. Rank 0 writes the figures down."""

import sys
import traceback
from pathlib import Path

import msgspec
import torch

from .... import ops
from ....errors import FasterTransformerError
from ....models.data_types import DTYPES
from ....parallel.mpi import MpiWorld, abort, place_on_node
from ....runtime.device import choose_device
from .job import Job, SumRow
from .measure import measure_sums
from .ways import ways_of, ways_with_norm


def run(job: Job) -> None:
    """Raises: FasterTransformerError: too few GPUs, or a sum is wrong."""
    local_rank, local_ranks = place_on_node()
    shares = job.share_gpus and local_ranks > torch.cuda.device_count() > 0
    device = _shared(local_rank) if shares else choose_device(job.device, local_rank, local_ranks)
    ops.set_num_threads(1)
    world = MpiWorld(job.ranks, 1, device)
    with Path(job.figures).open("ab") as figures:
        choose = ways_with_norm if job.norm else ways_of
        ways, dtype = list(choose(world.tensor_group)), DTYPES[job.data_type]
        for way, num_bytes, seconds in measure_sums(world, ways, job.sizes, dtype):
            row = SumRow(
                ranks=job.ranks,
                num_bytes=num_bytes,
                way=way.name,
                us=seconds * 1e6,
                gb_per_second=2 * (job.ranks - 1) / job.ranks * num_bytes / seconds / 1e9,
                shares_gpu=shares,
            )
            if world.mesh.rank == 0:
                figures.write(msgspec.json.encode(row) + b"\n")
                figures.flush()


def _shared(local_rank: int) -> torch.device:
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    ops.set_device(device.index)
    return device


if __name__ == "__main__":
    try:
        run(msgspec.json.decode(sys.argv[1], type=Job))
    except FasterTransformerError as error:
        print(error, file=sys.stderr)
        abort(2)
    except Exception:
        traceback.print_exc()
        abort(1)
