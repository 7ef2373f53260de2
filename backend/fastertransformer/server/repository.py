# SPDX-License-Identifier: BSD-3-Clause
"""Copies models of model_repository/ and sets in their config.pbtxt what a user would set by hand."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

_ENGINE = 'key: "model_checkpoint_path"'
_TOKENIZER = "tokenizer_dir"
_COUNT = re.compile(r"(?<= count: )\d+")
_PARAMETER = re.compile(r"^parameters .*\n", re.MULTILINE)
_SLOT = re.compile(r"\$\{(\w+)\}")
_DECOUPLED = re.compile(r"(?<=decoupled: )\w+")


Tensor = tuple[str, str, Sequence[int]]
"""Name, data type and dims of an output tensor."""
_NO_TENSORS: Mapping[str, Sequence[Tensor]] = MappingProxyType({})


def models_of(
    template: Path, has_tokenizer: bool = True, tensors: Mapping[str, Sequence[Tensor]] = _NO_TENSORS
) -> dict[str, str]:
    """The models in a folder of model_repository/, under their own names.

    Args:
        has_tokenizer: without, only models are named that need none.
        tensors: of `write`; a model with a slot that is not among them is left out.
    """
    texts = {path.parent.name: path.read_text() for path in sorted(template.glob("*/config.pbtxt"))}
    return {
        name: name
        for name, text in texts.items()
        if (has_tokenizer or not _is_text(text)) and set(_SLOT.findall(text)) <= set(tensors)
    }


def write(
    template: Path,
    target: Path,
    models: Mapping[str, str],
    parameters: Mapping[str, str],
    instances: int = 1,
    decoupled: Mapping[str, bool] | None = None,
    tensors: Mapping[str, Sequence[Tensor]] = _NO_TENSORS,
) -> None:
    """Writes a model repository that tritonserver can serve.

    Args:
        template: a folder of model_repository/.
        target: the new repository; models of the same name in it are replaced.
        models: names in the new repository, and which models of the template they are.
        parameters: of config.pbtxt. A model of the backend gets all of them; `tokenizer_dir` and what else
            belongs to other models is set where the template has it.
        instances: of every model of the backend.
        decoupled: whether a model may stream, by its name; what is not named stays as it is in the template.
        tensors: what takes the place of the slots in templates whose outputs depend on the checkpoint.
    """
    entries = {slot: ",\n".join(map(_entry, outputs)) for slot, outputs in tensors.items()}
    for name, source in models.items():
        folder = target / name
        ignored = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(template / source, folder, dirs_exist_ok=True, ignore=ignored)
        config = folder / "config.pbtxt"
        text = _SLOT.sub(lambda slot: entries[slot[1]], config.read_text())
        for key, value in parameters.items():
            text = _with_parameter(text, key, value)
        if _ENGINE in text:
            text = _COUNT.sub(str(instances), text)
        if decoupled and name in decoupled:
            text = _DECOUPLED.sub(str(decoupled[name]).lower(), text)
        config.write_text(text)


def _entry(tensor: Tensor) -> str:
    name, data_type, dims = tensor
    return f'  {{ name: "{name}" data_type: {data_type} dims: [ {", ".join(map(str, dims))} ] }}'


def _is_text(config: str) -> bool:
    return _TOKENIZER in config or 'platform: "ensemble"' in config


def _with_parameter(config: str, key: str, value: str) -> str:
    line = f'parameters {{ key: "{_quote(key)}" value: {{ string_value: "{_quote(value)}" }} }}'
    pattern = re.compile(rf'^parameters {{ key: "{re.escape(key)}" .*$', re.MULTILINE)
    if pattern.search(config):
        return pattern.sub(lambda _: line, config)
    if _ENGINE not in config or key == _TOKENIZER:
        return config
    end = max((found.end() for found in _PARAMETER.finditer(config)), default=len(config))
    return f"{config[:end]}{line}\n{config[end:]}"


def _quote(text: str) -> str:
    """For a string in protobuf text format."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
