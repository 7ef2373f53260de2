# SPDX-License-Identifier: BSD-3-Clause
"""Fills the templates of model_repository/; model_repository/README.md explains the slots."""

import shutil
import string
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ..errors import ModelLoadError

Tensor = tuple[str, str, Sequence[int]]
"""Name, data type and dims of an output tensor."""

DEFAULTS = {
    "MODEL_TYPE": "",
    "TENSOR_PARA_SIZE": "1",
    "PIPELINE_PARA_SIZE": "1",
    "DATA_TYPE": "fp32",
    "INSTANCES": "1",
    "MAX_BATCH_SIZE": "1024",
    "DECOUPLED": "false",
    "TEXT_DECOUPLED": "true",
    "CONTRACT": "gpt",
    "TOKENIZER": "",
}
REQUIRED = ("CHECKPOINT",)
_CONTRACTS = {
    "gpt": {
        "INPUT_LENGTHS": "response_input_lengths",
        "POST_INPUT_LENGTHS": "RESPONSE_INPUT_LENGTHS",
        "INPUT_LENGTHS_TYPE": "TYPE_INT32",
    },
    "llama": {
        "INPUT_LENGTHS": "input_sequence_lengths",
        "POST_INPUT_LENGTHS": "INPUT_SEQUENCE_LENGTHS",
        "INPUT_LENGTHS_TYPE": "TYPE_UINT32",
    },
}
_NEED_TOKENIZER = ("text", "preprocessing", "postprocessing", "ensemble", "embed", "classify")


def write(
    template: Path,
    target: Path,
    slots: Mapping[str, str],
    parameters: Mapping[str, str] | None = None,
    models: Collection[str] | None = None,
    outputs: Mapping[str, Sequence[Tensor]] = MappingProxyType({}),
) -> None:
    """Writes a model repository that tritonserver can serve.

    Args:
        template: a folder of model_repository/.
        target: the new repository; models of the same name in it are replaced.
        slots: values of the slots; DEFAULTS has those that may be left out.
        parameters: further parameters of the engine, such as max_num_seqs.
        models: names of the models to write; default all, without a TOKENIZER those that need none.
        outputs: further slots, for output tensors that depend on the checkpoint.

    Raises:
        ModelLoadError: a slot is unknown, missing or has a value that is not allowed.
    """
    declared = {slot: ",\n".join(map(_output, tensors)) for slot, tensors in outputs.items()}
    values = {**_values(slots, parameters or {}), **declared}
    wanted = _with_tokenizer(template, values) if models is None else set(models)
    for name in sorted(wanted):
        folder = target / name
        shutil.copytree(
            template / name, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "__pycache__")
        )
        config = folder / "config.pbtxt"
        config.write_text(string.Template(config.read_text()).substitute(values))


def _with_tokenizer(template: Path, values: Mapping[str, str]) -> set[str]:
    names = {path.name for path in template.iterdir() if path.is_dir()}
    return names if values["TOKENIZER"] else names - set(_NEED_TOKENIZER)


def _values(slots: Mapping[str, str], parameters: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(slots) - set(DEFAULTS) - set(REQUIRED))
    missing = sorted(set(REQUIRED) - set(slots))
    if unknown or missing:
        raise ModelLoadError(
            f"template slots: unknown are {unknown}, missing are {missing};"
            f" allowed are {sorted((*DEFAULTS, *REQUIRED))}"
        )
    values = {**DEFAULTS, **slots}
    if values["CONTRACT"] not in _CONTRACTS:
        raise ModelLoadError(f"slot CONTRACT is {values['CONTRACT']!r}; allowed are {', '.join(_CONTRACTS)}")
    lines = [_parameter(key, value) for key, value in parameters.items()]
    quoted = {key: _quote(value) for key, value in values.items()}
    return {**quoted, **_CONTRACTS[values["CONTRACT"]], "PARAMETERS": "\n".join(lines)}


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{_quote(key)}" value: {{ string_value: "{_quote(value)}" }} }}'


def _output(tensor: Tensor) -> str:
    name, data_type, dims = tensor
    return f'  {{ name: "{name}" data_type: {data_type} dims: [ {", ".join(map(str, dims))} ] }}'


def _quote(text: str) -> str:
    """For a string in protobuf text format."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
