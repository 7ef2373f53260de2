# SPDX-License-Identifier: BSD-3-Clause
"""The same ranks as one engine after the other, each until its client leaves; started alone or by mpirun.

Usage: ranks_program.py FOLDER OWNER [DEVICE]

Engine N is the EngineConfig in FOLDER/N.json and opens FOLDER/N.sock. Ends when the process OWNER is gone.
DEVICE is shared by all ranks, whatever the configuration says.
"""

import itertools
import sys
import time
import traceback
from pathlib import Path

import torch

from fastertransformer import config as configuration
from fastertransformer import ops, worker
from fastertransformer.config import EngineConfig
from fastertransformer.parallel.world import World
from fastertransformer.server import processes

POLL_S = 0.005


def main(folder: Path, owner: int, device: str = "") -> None:
    for number in itertools.count():
        path = folder / f"{number}.json"
        while not path.exists():
            if not processes.is_alive(owner):
                return
            time.sleep(POLL_S)
        config = configuration.decode(path.read_text())
        worker.run(config, world_on(config, device), str(path.with_suffix(".sock")))


def world_on(config: EngineConfig, device: str) -> World:
    if not device:
        return worker.make_world(config)
    from fastertransformer.parallel.mpi import MpiWorld

    shared = torch.device(device)
    ops.set_device(shared.index)
    return MpiWorld(config.parallel.tensor_para_size, config.parallel.pipeline_para_size, shared)


def leave_all() -> None:
    """A rank that just left would let the others wait."""
    if "mpi4py.MPI" in sys.modules:
        from fastertransformer.parallel.mpi import abort

        abort(1)
    sys.exit(1)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    except Exception:
        traceback.print_exc()
        leave_all()
