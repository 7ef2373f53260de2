# SPDX-License-Identifier: BSD-3-Clause
"""Prompts of prompt learning that lie in a FasterTransformer checkpoint, one for each task of config.ini."""

from configparser import ConfigParser
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ....errors import ModelLoadError
from ...hf_config import HFConfig
from .config import FILE, class_of, file_type, find_folder, read_ini, section_of, section_values
from .files import Files

PREFIX_PROMPT = 2
P_PROMPT_TUNING = 3
"""Kinds of prompt_learning_type that read prompts from files; a soft prompt (1) comes with its request."""


class PromptTask(NamedTuple):
    """The prompt of one task."""

    id: int
    """What `prompt_learning_task_name_ids` selects it by."""
    tensor: Tensor
    """[prompt_length, hidden] embeddings, or of a prefix prompt
    [layers, 2 (keys, values), heads, prompt_length, head_dim]; in the data type of the files."""


def prompt_start_id(path: str) -> int | None:
    """The first virtual id: what config.ini says, else the one behind end_id, of T5 the second behind its
    vocabulary; None without config.ini."""
    folder = find_folder(Path(path))
    if folder is None or not (folder / FILE).exists():
        return None
    parser = read_ini(folder)
    config = section_values(parser, section_of(class_of(parser, folder)), folder / FILE)
    if config.has("prompt_learning_start_id"):
        return config.integer("prompt_learning_start_id", 0) or None
    end_ids = (config.integer("vocab_size"),) if config.has("d_model") else config.token_ids("end_id")
    return max((-1, *end_ids)) + 1 or None


def prompt_tasks(path: str) -> dict[str, PromptTask]:
    """The tasks of a checkpoint by name; none where the checkpoint is not FasterTransformer's, or has none.

    Raises:
        ModelLoadError: a task without a name or length, or with the name of another, or its file is missing
            or of another size.
    """
    folder = find_folder(Path(path))
    if folder is None or not (folder / FILE).exists():
        return {}
    parser = read_ini(folder)
    config = section_values(parser, section_of(class_of(parser, folder)), folder / FILE)
    kind = config.integer("prompt_learning_type", 0)
    if kind not in (PREFIX_PROMPT, P_PROMPT_TUNING):
        return {}
    files = Files.of(folder, file_type(config))
    tasks: dict[str, PromptTask] = {}
    for index in range(config.integer("num_tasks", 0)):
        name, task = _task(parser, config, files, index, kind)
        if name in tasks:
            first = f"[task_{tasks[name].id}]"
            raise ModelLoadError(f"{folder / FILE} [task_{index}] task_name is {name!r}, as that of {first}")
        tasks[name] = task
    return tasks


def _task(
    parser: ConfigParser, config: HFConfig, files: Files, index: int, kind: int
) -> tuple[str, PromptTask]:
    section, path = f"task_{index}", files.folder / FILE
    if section not in parser:
        raise ModelLoadError(f"{path} has no section [{section}], though num_tasks asks for it")
    values = section_values(parser, section, path)
    name, length = parser[section].get("task_name", ""), values.integer("prompt_length")
    if not name:
        raise ModelLoadError(f"{path} [{section}] has no task_name")
    if "/" in name:
        raise ModelLoadError(f"{path} [{section}] task_name is {name!r}; expected a part of a file's name")
    if config.has("d_model"):  # of T5's encoder, which has no prefixes here
        config.only("prompt_learning_type", P_PROMPT_TUNING)
        table = (length, config.integer("d_model"))
        return name, PromptTask(index, files.slice(f"model.prompt_table.{name}.weight", table, 0, 0, length))
    heads, dim = config.integer("head_num"), config.integer("size_per_head")
    if kind == P_PROMPT_TUNING:
        tensor = files.slice(f"model.prompt_table.{name}.weight", (length, heads * dim), 0, 0, length)
    else:
        layers, kv_heads = config.integer("num_layer"), config.integer("kv_head_num", heads)
        shape = (layers, 2, kv_heads, length, dim)
        tensor = files.slice(f"model.prefix_prompt.{name}.weight", shape, 0, 0, layers)
    return name, PromptTask(index, tensor)
