# SPDX-License-Identifier: BSD-3-Clause
"""What a rank computes on: the GPU of its number on this machine, or the CPU."""

import logging

import torch

from .. import ops
from ..errors import ModelLoadError

_log = logging.getLogger("fastertransformer")


def choose_device(wanted: str, local_rank: int = 0, local_ranks: int = 1) -> torch.device:
    """Makes the GPU the current one.

    Args:
        wanted: parameter device: auto, cpu or cuda.
        local_rank, local_ranks: of the ranks on this machine.

    Raises:
        ModelLoadError: cuda is wanted and no GPU can be used; there are fewer GPUs than ranks; this build
            has no kernels for the GPU.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if reason := _why_no_gpu():
        if wanted == "cuda":
            raise ModelLoadError(f"device is cuda, but {reason}")
        _log.info("computing on the CPU: %s", reason)
        return torch.device("cpu")
    check_count(local_ranks, torch.cuda.device_count())
    ops.set_device(local_rank)
    built, runs = ops.cuda_architectures()
    if not runs:
        raise ModelLoadError(no_code(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), built))
    return torch.device("cuda", local_rank)


def check_count(local_ranks: int, gpus: int) -> None:
    """Raises: ModelLoadError: more ranks than GPUs; names both."""
    if local_ranks > gpus:
        raise ModelLoadError(
            f"{local_ranks} ranks run on this machine, each needs a GPU of its own, and {gpus} are visible: "
            "lower tensor_para_size or pipeline_para_size, show more GPUs in CUDA_VISIBLE_DEVICES, "
            "or set device to cpu"
        )


def no_code(name: str, capability: tuple[int, int], built: list[int]) -> str:
    """What to say about a GPU that no kernel was compiled for."""
    versions = ", ".join(f"{architecture / 10:.1f}" for architecture in built)
    return (
        f"{name} has compute capability {capability[0]}.{capability[1]}; this build has kernels for "
        f"{versions}: build with CMAKE_CUDA_ARCHITECTURES={capability[0]}{capability[1]} or set device to cpu"
    )


def _why_no_gpu() -> str:
    """Empty if there is one."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # torch says which: no GPU, an old driver, a CPU build
        return str(error)
    return "" if ops.has_kernels("cuda") else "this build has no CUDA kernels: build with FT_CUDA=on"
