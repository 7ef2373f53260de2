# SPDX-License-Identifier: BSD-3-Clause
"""What a bench runs with: the model, the engine's parameters, the machine and its ceilings."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import typer

from ... import config as configuration
from ...config import EngineConfig
from ...models.spec import ModelSpec
from ...runtime.device import choose_device
from ..console import errors
from .kind import Kind, read_model
from .machine import Machine, measure_machine
from .shapes import shape_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Equal for all systems and workloads of a run."""

    folder: Path
    parameters: dict[str, str]
    """Of config.pbtxt."""
    config: EngineConfig
    """What they say."""
    spec: ModelSpec
    kind: Kind
    device: torch.device
    machine: Machine


@contextmanager
def prepared(
    path: Path | None, shape: str, dummy_weights: bool, given: dict[str, str], batches: list[int]
) -> Iterator[Setup]:
    """Measures the machine.

    Args:
        given: parameters of config.pbtxt that the user chose; data_type may be `auto`.
        batches: numbers of sequences that must be able to run together.

    Raises:
        ModelLoadError: there is no such model, or a parameter is wrong.
    """
    if (path is None) == (not shape):
        raise typer.BadParameter("give either PATH or --shape")
    with ExitStack() as stack:
        folder = path or stack.enter_context(shape_folder(shape))
        load_format = "dummy" if shape or dummy_weights else "auto"
        device = choose_device(given.get("device", "auto"))
        spec, kind = read_model(folder, load_format, given.get("model_type", ""))
        given = given | {"load_format": load_format}
        parameters = _parameters(folder, given, batches, device.type, kind is Kind.ENCODER)
        config = configuration.from_triton(parameters)
        with errors.status("Measuring the machine"):
            machine = measure_machine(device, config.data_type, config.num_threads)
        yield Setup(
            folder=folder,
            parameters=parameters,
            config=config,
            spec=spec,
            kind=kind,
            device=device,
            machine=machine,
        )


def _parameters(
    folder: Path, given: dict[str, str], batches: list[int], device: str, encodes: bool
) -> dict[str, str]:
    parameters = {
        "model_checkpoint_path": str(folder.resolve()),
        "enable_kv_cache_reuse": "false",  # a repeated workload must compute its prompts again
        **given,
    }
    if parameters.get("num_threads", "0") == "0":
        parameters["num_threads"] = str(len(os.sched_getaffinity(0)))
    config = configuration.on_device(configuration.from_triton(parameters), device, encodes)
    together = config.max_num_seqs if "max_num_seqs" in given else max([config.max_num_seqs, *batches])
    return parameters | {
        "data_type": config.data_type,
        "max_num_seqs": str(together),
        "max_num_batched_tokens": str(config.max_num_batched_tokens),
    }
