# SPDX-License-Identifier: BSD-3-Clause
"""Which GPUs a model instance computes on: the rules of the FasterTransformer backend."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..config import ParallelConfig
from ..errors import ModelLoadError


class Placement(Struct, frozen=True):
    """The GPU group of one instance; equal placements of equal configurations share an engine."""

    group: int = 0
    devices: tuple[str, ...] = ()
    """Entries for CUDA_VISIBLE_DEVICES; empty on a CPU."""


def visible_gpus() -> tuple[str, ...]:
    """What CUDA would count, without loading CUDA: this process must never hold a GPU context."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(entry.strip() for entry in chosen.split(",") if entry.strip() not in ("", "-1"))
    found = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return tuple(str(index) for index in range(len(found)))


def instance_index(instance_name: str) -> int:
    """The last number in the name that Triton gives to an instance: `model_0_3` is instance 3."""
    digits = re.search(r"(\d+)$", instance_name)
    return int(digits.group(1)) if digits else 0


def check_model_config(model_config: dict[str, Any]) -> None:
    """What config.pbtxt says about instances and batching.

    Raises:
        ModelLoadError: names the rule that is broken and what config.pbtxt has.
    """
    groups = model_config.get("instance_group", [])
    _require(
        len(groups) == 1, f"config.pbtxt has {len(groups)} instance_group entries; exactly one is allowed"
    )
    kind = groups[0].get("kind")
    _require(
        kind == "KIND_CPU", f"instance_group kind is {kind}; only KIND_CPU is allowed: GPUs are chosen here"
    )
    max_batch_size = model_config.get("max_batch_size", 0)
    sequences = "sequence_batching" in model_config
    _require(
        not sequences or max_batch_size == 1,
        f"sequence_batching with max_batch_size {max_batch_size}; it needs max_batch_size 1",
    )
    _require(
        not (sequences and "dynamic_batching" in model_config),
        "sequence_batching and dynamic_batching exclude each other; config.pbtxt has both",
    )


def place(instance: int, instances: int, parallel: ParallelConfig, gpus: Sequence[str]) -> Placement:
    """The GPU group of instance `instance`: instance i goes to group i mod (G / (T * P)).

    Args:
        gpus: the G visible GPUs of this node; none means that the CPU computes, where G counts as T * P.

    Raises:
        ModelLoadError: G, T, P and the number of instances do not fit; names rule and numbers.
    """
    world, numbers = parallel.world_size, _numbers(instances, parallel, gpus)
    if parallel.hostfile:
        _require(instances == 1, f"several nodes (parameter hostfile) allow one instance only; {numbers}")
        _require(
            not gpus or world % len(gpus) == 0,
            f"on several nodes T * P must be (visible GPUs of a node) * nodes; {numbers}",
        )
        return Placement(0, tuple(gpus))
    if not gpus:
        return Placement()
    _require(len(gpus) % world == 0, f"the number of visible GPUs must be a multiple of T * P; {numbers}")
    _require(
        world * instances >= len(gpus),
        f"visible GPUs must be at most instances * T * P, or some would stay idle: raise the instance count"
        f" or hide GPUs with CUDA_VISIBLE_DEVICES; {numbers}",
    )
    group = instance % (len(gpus) // world)
    return Placement(group, tuple(gpus[group * world : (group + 1) * world]))


def _numbers(instances: int, parallel: ParallelConfig, gpus: Sequence[str]) -> str:
    return (
        f"visible GPUs = {len(gpus)}, tensor_para_size T = {parallel.tensor_para_size},"
        f" pipeline_para_size P = {parallel.pipeline_para_size}, instances = {instances}"
    )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ModelLoadError(message)
