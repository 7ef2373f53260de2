# SPDX-License-Identifier: BSD-3-Clause
"""The GPUs that there are, seen without taking memory on them."""

import subprocess
from dataclasses import dataclass

from fastertransformer.server.placement import visible_gpus

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs of one kind."""

    gpus: tuple[str, ...]
    """Entries for CUDA_VISIBLE_DEVICES."""
    name: str = ""
    memory: int = 0
    """Bytes of one."""


def find_hardware() -> Hardware:
    """Raises: subprocess.CalledProcessError: there are GPUs and their driver does not answer."""
    gpus = visible_gpus()
    if not gpus:
        return Hardware(())
    query = [
        "nvidia-smi",
        "--query-gpu=name,memory.total",
        "--format=csv,noheader,nounits",
        f"--id={gpus[0]}",
    ]
    name, memory = subprocess.check_output(query, text=True, timeout=30).strip().split(", ")
    return Hardware(gpus, name, int(memory) * _MIB)
