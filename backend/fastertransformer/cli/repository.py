# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer repository`: a checkpoint becomes a model repository."""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import config as configuration
from ..errors import ModelLoadError
from ..server import repository as templates_of
from ..server.contracts.encoder_slots import output_slots
from .checkpoint import find_gguf, find_tokenizer
from .console import errors
from .installation import templates


class Contract(str, Enum):
    """Whose clients are served."""

    FASTERTRANSFORMER = "fastertransformer"
    TENSORRT_LLM = "tensorrt_llm"


_TEMPLATES = {Contract.FASTERTRANSFORMER: "decoder", Contract.TENSORRT_LLM: "tensorrt_llm"}
"""Folders of model_repository/."""
_TWINS = {"tensorrt_llm": {"ensemble": "tensorrt_llm_bls"}}
"""Further names of models in them."""


TensorParaSize = Annotated[int, typer.Option(help="Ranks that share every layer.")]
PipelineParaSize = Annotated[int, typer.Option(help="Ranks that take layers in turn.")]
Instances = Annotated[int, typer.Option(min=1, help="Model instances; on the same GPUs they share weights.")]
DataType = Annotated[str, typer.Option(help="fp32, fp16 or bf16; auto: bf16 on a GPU, fp32 on a CPU.")]
Decoupled = Annotated[bool, typer.Option(help="Stream from the token model, a response per step.")]
ContractOption = Annotated[
    Contract,
    typer.Option("--contract", help="Names and types of the tensors: those of this server's clients."),
]
Interactive = Annotated[
    bool, typer.Option(help="Conversations (Triton sequences) instead of single requests.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Parameter = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE, any other parameter of config.pbtxt; repeatable.", show_default=False),
]


def repository(
    path: Annotated[Path, typer.Argument(help="Hugging Face folder, FasterTransformer's own or GGUF file.")],
    target: Annotated[Path, typer.Argument(help="The model repository; models in it are replaced.")],
    tensor_para_size: TensorParaSize = 1,
    pipeline_para_size: PipelineParaSize = 1,
    instances: Instances = 1,
    data_type: DataType = "auto",
    decoupled: Decoupled = False,
    contract: ContractOption = Contract.FASTERTRANSFORMER,
    interactive: Interactive = False,
    device: Device = "auto",
    parameter: Parameter = None,
) -> None:
    """Write a model repository for a checkpoint, as `serve` would serve it, for any tritonserver."""
    parameters = {
        "tensor_para_size": str(tensor_para_size),
        "pipeline_para_size": str(pipeline_para_size),
        "data_type": data_type,
        "device": device,
        **parse_parameters(parameter or []),
    }
    if interactive and contract is not Contract.FASTERTRANSFORMER:
        raise typer.BadParameter(
            f"--interactive goes with --contract {Contract.FASTERTRANSFORMER.value} alone"
        )
    template = "interactive" if interactive else _TEMPLATES[contract]
    streams = {"fastertransformer": decoupled}
    write_repository(path, target, parameters, template, instances=instances, decoupled=streams)


def write_repository(
    path: Path,
    target: Path,
    parameters: dict[str, str],
    template: str = "decoder",
    models: Mapping[str, str] | None = None,
    instances: int = 1,
    decoupled: Mapping[str, bool] | None = None,
) -> None:
    """A model repository for one checkpoint; without a tokenizer only token models are served.

    Args:
        parameters: of config.pbtxt, beside those that name the checkpoint.
        template: the folder of model_repository/.
        models: names and what they are in the template; default all that can be served.
        decoupled: which models may stream, where it is not as in the template.

    Raises:
        ModelLoadError: there is no checkpoint at `path`, or a parameter cannot be.
    """
    # Raises for what no server would load; before a file is written.
    configuration.from_triton({"model_checkpoint_path": str(path)} | parameters)
    tensors: Mapping[str, Sequence[templates_of.Tensor]] = {}
    if find_gguf(path) is None:  # files of that format hold decoders
        template, tensors = _template_for(path, parameters, template)
    tokenizer = find_tokenizer(path)
    if tokenizer is None:
        errors.print(
            f"[yellow]{escape(str(path))} has no tokenizer.json: only token ids are served, no text[/]"
        )
    own = templates_of.models_of(templates() / template, tokenizer is not None, tensors)
    twins = _TWINS.get(template, {})
    all_models = own | {name: source for name, source in twins.items() if source in own}
    named = {
        "model_checkpoint_path": str(path.resolve()),
        "tokenizer_dir": str((tokenizer or path).resolve()),
    }
    templates_of.write(
        templates() / template,
        target,
        models or all_models,
        named | parameters,
        instances,
        decoupled,
        tensors,
    )


def _template_for(
    path: Path, parameters: Mapping[str, str], decoder: str
) -> tuple[str, Mapping[str, Sequence[templates_of.Tensor]]]:
    """The folder of model_repository/ that a checkpoint needs, and what takes the place of its slots.

    Args:
        decoder: the one for decoders.
    """
    # These import torch, which takes seconds.
    from ..models import encoding_outputs
    from ..models.checkpoint import open_checkpoint
    from ..models.families import FAMILIES

    checkpoint = open_checkpoint(str(path), parameters.get("load_format", "auto"))
    if outputs := encoding_outputs(checkpoint, parameters.get("model_type", "")):
        return "encoder", output_slots(outputs)
    family = FAMILIES.get(checkpoint.config.model_type)
    return "encoder_decoder" if family is not None and family.encoder_names else decoder, {}


def parse_parameters(pairs: list[str]) -> dict[str, str]:
    """KEY=VALUE pairs. Raises: ModelLoadError: a pair without `=`."""
    for pair in pairs:
        if "=" not in pair:
            raise ModelLoadError(f"--parameter {pair!r} is not of the form KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
