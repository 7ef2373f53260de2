# SPDX-License-Identifier: BSD-3-Clause
"""Command line and environment of engines."""

from pathlib import Path

from fastertransformer.config import EngineConfig, ParallelConfig
from fastertransformer.server.command import engine_command, engine_environment
from fastertransformer.server.placement import Placement

GPUS = Placement(0, ("2", "3"))


def test_ranks_see_their_gpus_and_no_multicast():
    inherited = {"OMPI_COMM_WORLD_RANK": "0", "CUDA_VISIBLE_DEVICES": "0,1,2,3", "NCCL_NVLS_ENABLE": "1"}
    environment = engine_environment(inherited, GPUS, Path("/run/tmp"))
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environment["NCCL_NVLS_ENABLE"] == "0"
    assert environment["TMPDIR"] == "/run/tmp"
    assert not any(name.startswith("OMPI_MCA") for name in environment)
    assert "OMPI_COMM_WORLD_RANK" not in environment


def test_variables_travel_to_other_hosts():
    parallel = ParallelConfig(tensor_para_size=4, hostfile="/etc/hosts.mpi")
    command = engine_command(EngineConfig(model_checkpoint_path="", parallel=parallel), GPUS, Path("socket"))
    carried = {command[i + 1] for i, word in enumerate(command) if word == "-x"}
    assert carried == {"PYTHONPATH", "NCCL_NVLS_ENABLE", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES"}
