# SPDX-License-Identifier: BSD-3-Clause
"""Run by mpirun: the same ranks as one mesh after the other, an engine for each, until its client leaves.

Usage: meshes_program.py DEVICE FOLDER CONFIG_JSON TxP ...; DEVICE is shared by all ranks, the engine of a
mesh opens FOLDER/TxP.sock.
"""

import sys
import traceback
from pathlib import Path

import torch
from msgspec.structs import replace

from fastertransformer import config as configuration
from fastertransformer import ops, worker
from fastertransformer.config import ParallelConfig
from fastertransformer.parallel.mpi import MpiWorld, abort


def main(device: torch.device, folder: Path, config_json: str, meshes: list[str]) -> None:
    if device.type == "cuda":
        ops.set_device(device.index)
    for mesh in meshes:
        tp_size, pp_size = map(int, mesh.split("x"))
        parallel = ParallelConfig(tensor_para_size=tp_size, pipeline_para_size=pp_size)
        config = replace(configuration.decode(config_json), parallel=parallel)
        worker.run(config, MpiWorld(tp_size, pp_size, device), str(folder / f"{mesh}.sock"))


if __name__ == "__main__":
    try:
        main(torch.device(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    except Exception:
        traceback.print_exc()
        abort(1)
