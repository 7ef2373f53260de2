# SPDX-License-Identifier: BSD-3-Clause
"""Prompt-learning tables beside a checkpoint: FasterTransformer's config.ini with `[task_i]`, its files."""

import configparser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ModelLoadError
from ..parallel.mesh import Mesh
from .transformer import Model

_SOFT, _PREFIX, _VIRTUAL = 1, 2, 3
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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
    """FasterTransformer's `prompt_learning_type`: 0 none, 1 soft, 2 prefix, 3 p-tuning or prompt tuning."""
    start_id: int | None = None
    """The first virtual id, where config.ini says it."""
    tasks: tuple[Task, ...] = ()
    embeddings: tuple[npt.NDArray[np.float32], ...] = ()
    """[length, E] of each task; none of a prefix."""
    prefixes: tuple[Tensor, ...] = ()
    """[layers of this stage, keys and values, length, K, D] of each prefix, on the device."""


def load_prompts(path: str, model: Model, mesh: Mesh) -> Prompts:
    """The tables that lie beside the checkpoint at `path`; none where there is no config.ini with tasks.

    Raises:
        ModelLoadError: a number or a file that is missing, or a file of another size.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    section = _Section.of(folder)
    if section is None:
        return Prompts()
    learning_type, start_id = (
        section.number("prompt_learning_type", 0),
        section.number("prompt_learning_start_id", -1),
    )
    if learning_type not in (0, _SOFT, _PREFIX, _VIRTUAL):
        raise ModelLoadError(
            f"{folder}/config.ini: prompt_learning_type is {learning_type}; allowed is 0 to 3"
        )
    tasks = tuple(section.tasks())
    is_prefix = learning_type == _PREFIX
    return Prompts(
        learning_type,
        None if start_id < 0 else start_id,
        tasks,
        () if is_prefix else tuple(_embeddings(section, task, model) for task in tasks),
        tuple(_prefix(section, task, model, mesh) for task in tasks) if is_prefix else (),
    )


@dataclass(frozen=True, slots=True)
class _Section:
    """The part of config.ini that names the model, and where its files lie."""

    folder: Path
    parser: configparser.ConfigParser
    name: str

    @classmethod
    def of(cls, folder: Path) -> "_Section | None":
        """The one that counts tasks."""
        parser = configparser.ConfigParser()
        parser.read(folder / "config.ini")
        names = [name for name in parser.sections() if "num_tasks" in parser[name]]
        return cls(folder, parser, names[0]) if names else None

    def number(self, key: str, default: int | None = None, section: str = "") -> int:
        value = self.parser.get(section or self.name, key, fallback=None)
        if value is None and default is not None:
            return default
        try:
            return int(value or "")
        except ValueError:
            raise ModelLoadError(
                f"{self.folder}/config.ini: [{section or self.name}] {key} is {value!r}; expected an integer"
            ) from None

    def tasks(self) -> Iterator[Task]:
        for index in range(self.number("num_tasks")):
            section = f"task_{index}"
            name = self.parser.get(section, "task_name", fallback="")
            if not name:
                raise ModelLoadError(f"{self.folder}/config.ini: [{section}] has no task_name")
            yield Task(name, self.number("prompt_length", section=section))

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A raw file of the type that `weight_data_type` names."""
        kind = self.parser.get(self.name, "weight_data_type", fallback="fp32")
        if kind not in _DTYPES:
            raise ModelLoadError(f"weight_data_type is {kind!r}; allowed are {', '.join(_DTYPES)}")
        path, dtype = self.folder / name, _DTYPES[kind]
        wanted = int(np.prod(shape)) * dtype.itemsize
        found = path.stat().st_size if path.exists() else -1
        if found != wanted:
            raise ModelLoadError(f"{path} has {found} bytes; {list(shape)} in {kind} needs {wanted}")
        return torch.from_numpy(np.fromfile(path, np.uint8)).view(dtype).view(shape)


def _embeddings(section: _Section, task: Task, model: Model) -> npt.NDArray[np.float32]:
    table = section.read(f"model.prompt_table.{task.name}.weight.bin", (task.length, model.embedding_size))
    return table.float().numpy()


def _prefix(section: _Section, task: Task, model: Model, mesh: Mesh) -> Tensor:
    """This rank's layers and heads of files [layers, 2, heads of a file, length, D], one for each of the
    ranks that the checkpoint was converted for."""
    spec = model.spec
    stem = f"model.prefix_prompt.{task.name}.weight"
    count = len(list(section.folder.glob(f"{stem}.*.bin"))) or 1
    shape = (spec.num_hidden_layers, 2, spec.num_key_value_heads // count, task.length, spec.head_dim)
    whole = torch.cat([section.read(f"{stem}.{rank}.bin", shape) for rank in range(count)], 2)
    first = mesh.tp_rank * spec.num_key_value_heads // mesh.tp_size
    layers = mesh.layers(spec.num_hidden_layers)
    part = whole[layers.start : layers.stop, :, first : first + model.num_kv_heads].transpose(2, 3)
    return part.contiguous().to(model.device, model.dtype)
