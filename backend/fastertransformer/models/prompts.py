# SPDX-License-Identifier: BSD-3-Clause
"""The prompt-learning tables of a checkpoint, cut for this rank."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import ModelLoadError
from ..parallel.mesh import Mesh
from .checkpoint.fastertransformer import prompt_start_id, prompt_tasks
from .transformer import Model

_PREFIX, _VIRTUAL = 2, 3
_PREFIX_DIMS = 5


@dataclass(frozen=True, slots=True)
class Task:
    """One `[task_i]`."""

    name: str
    length: int
    """Rows of its table."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a checkpoint says of prompt learning, and this rank's part of the tables."""

    learning_type: int = 0
    """FasterTransformer's `prompt_learning_type`: 2 prefix, 3 p-tuning or prompt tuning, 0 without tasks."""
    start_id: int | None = None
    """The first virtual id, where config.ini says it."""
    tasks: tuple[Task, ...] = ()
    embeddings: tuple[npt.NDArray[np.float32], ...] = ()
    """[length, E] of each task; none of a prefix."""
    prefixes: tuple[Tensor, ...] = ()
    """[layers of this stage, keys and values, length, K, D] of each prefix, on the device."""


def load_prompts(path: str, model: Model, mesh: Mesh) -> Prompts:
    """The tables of the tasks in config.ini, which may also lie beside other weights.

    Raises:
        ModelLoadError: config.ini or a file is not as it should be, or a table does not fit the model.
    """
    found = prompt_tasks(path)
    tensors = {name: task.tensor for name, task in sorted(found.items(), key=lambda item: item[1].id)}
    is_prefix = any(tensor.ndim == _PREFIX_DIMS for tensor in tensors.values())
    for name, tensor in tensors.items():
        _check_shape(name, tensor, model)
    return Prompts(
        learning_type=0 if not tensors else _PREFIX if is_prefix else _VIRTUAL,
        start_id=prompt_start_id(path),
        tasks=tuple(Task(name, tensor.shape[-2]) for name, tensor in tensors.items()),
        embeddings=() if is_prefix else tuple(tensor.float().numpy() for tensor in tensors.values()),
        prefixes=tuple(_own_part(tensor, model, mesh) for tensor in tensors.values()) if is_prefix else (),
    )


def _check_shape(name: str, tensor: Tensor, model: Model) -> None:
    spec, length = model.spec, tensor.shape[-2]
    wanted: tuple[int, ...] = (length, model.embedding_size)
    if tensor.ndim == _PREFIX_DIMS:
        wanted = (spec.num_hidden_layers, 2, spec.num_key_value_heads, length, spec.head_dim)
    if tensor.shape != wanted:
        raise ModelLoadError(
            f"the table of task {name} has shape {list(tensor.shape)}; the model needs {list(wanted)}"
        )


def _own_part(tensor: Tensor, model: Model, mesh: Mesh) -> Tensor:
    """This rank's layers and heads of [layers, 2, K, length, D]; ranks beyond the heads repeat them."""
    first = mesh.tp_rank * model.spec.num_key_value_heads // mesh.tp_size
    layers = mesh.layers(model.spec.num_hidden_layers)
    part = tensor[layers.start : layers.stop, :, first : first + model.num_kv_heads].transpose(2, 3)
    return part.contiguous().to(model.device, model.dtype)
