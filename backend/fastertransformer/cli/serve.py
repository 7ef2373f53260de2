# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer serve`: a checkpoint becomes a model repository, and a tritonserver serves it."""

import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import ModelLoadError
from ..server import repository
from ..server.contracts.encoder_slots import output_slots
from .console import errors, output
from .installation import templates
from .tritonserver import Ports, ServerError, TritonServer

READY_TIMEOUT_S = 900.0


class Contract(str, Enum):
    """Whose clients are served."""

    FASTERTRANSFORMER = "fastertransformer"
    TENSORRT_LLM = "tensorrt_llm"


_TEMPLATES = {Contract.FASTERTRANSFORMER: "decoder", Contract.TENSORRT_LLM: "tensorrt_llm"}
"""Folders of model_repository/."""
_TWINS = {"tensorrt_llm": {"ensemble": "tensorrt_llm_bls"}}
"""Further names of models in them."""


def serve(
    path: Annotated[
        Path | None,
        typer.Argument(help="Hugging Face folder, FasterTransformer's own or GGUF file.", show_default=False),
    ] = None,
    model_repository: Annotated[
        Path | None, typer.Option(help="Serve this repository as it is, instead of PATH.", show_default=False)
    ] = None,
    tensor_para_size: Annotated[int, typer.Option(help="Ranks that share every layer.")] = 1,
    pipeline_para_size: Annotated[int, typer.Option(help="Ranks that take layers in turn.")] = 1,
    instances: Annotated[int, typer.Option(help="Model instances; on the same GPUs they share weights.")] = 1,
    data_type: Annotated[
        str, typer.Option(help="fp32, fp16 or bf16; auto: bf16 on a GPU, fp32 on a CPU.")
    ] = "auto",
    decoupled: Annotated[
        bool, typer.Option(help="Stream from the token model, a response per step.")
    ] = False,
    contract: Annotated[
        Contract, typer.Option(help="Names and types of the tensors: those of this server's clients.")
    ] = Contract.FASTERTRANSFORMER,
    interactive: Annotated[
        bool, typer.Option(help="Conversations in token ids (Triton sequences) instead of single requests.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    parameter: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, any other parameter of config.pbtxt; repeatable.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="Port of HTTP.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Port of gRPC.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port of Prometheus metrics, over HTTP.")] = 8002,
) -> None:
    """Serve a checkpoint with Triton until Ctrl-C.

    Clients find the models [bold]text[/] (text in, text out), [bold]fastertransformer[/] (token ids) and
    [bold]ensemble[/] with its pre- and postprocessing; with --contract tensorrt_llm the models
    [bold]tensorrt_llm[/] (token ids), and [bold]tensorrt_llm_bls[/] and [bold]ensemble[/] (text);
    of an encoder [bold]embed[/] and [bold]classify[/] (text in), and [bold]fastertransformer[/].
    """
    ports = Ports(http_port, grpc_port, metrics_port)
    if (path is None) == (model_repository is None):
        raise typer.BadParameter("give either PATH or --model-repository")
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        if path is not None:
            parameters = {
                "tensor_para_size": str(tensor_para_size),
                "pipeline_para_size": str(pipeline_para_size),
                "data_type": resolve_data_type(data_type, device),
                "device": device,
                **parse_parameters(parameter or []),
            }
            write_repository(
                path,
                Path(folder),
                parameters,
                "interactive" if interactive else _TEMPLATES[contract],
                instances=instances,
                decoupled={"fastertransformer": decoupled},
            )
        with running(model_repository or Path(folder), ports, host) as server:
            _print_addresses(server)
            _wait_for_end(server)


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
        ModelLoadError: there is no checkpoint at `path`.
    """
    # These import torch, which a repository that is there already does not need.
    from ..models import encoding_outputs
    from ..models.checkpoint import open_checkpoint
    from ..models.families import FAMILIES
    from .checkpoint import find_tokenizer

    checkpoint = open_checkpoint(str(path), parameters.get("load_format", "auto"))
    tokenizer = find_tokenizer(path)
    if tokenizer is None:
        errors.print(
            f"[yellow]{escape(str(path))} has no tokenizer.json: only token ids are served, no text[/]"
        )
    tensors: Mapping[str, Sequence[repository.Tensor]] = {}
    if outputs := encoding_outputs(checkpoint, parameters.get("model_type", "")):
        template, tensors = "encoder", output_slots(outputs)
    elif (family := FAMILIES.get(checkpoint.config.model_type)) is not None and family.encoder_names:
        template = "encoder_decoder"
    own = repository.models_of(templates() / template, tokenizer is not None, tensors)
    twins = _TWINS.get(template, {})
    all_models = own | {name: source for name, source in twins.items() if source in own}
    named = {
        "model_checkpoint_path": str(path.resolve()),
        "tokenizer_dir": str((tokenizer or path).resolve()),
    }
    repository.write(
        templates() / template,
        target,
        models or all_models,
        named | parameters,
        instances,
        decoupled,
        tensors,
    )


def resolve_data_type(data_type: str, device: str) -> str:
    """auto is what runs fast on the device and loses nothing that a user would see."""
    if data_type != "auto":
        return data_type
    import torch

    return "bf16" if device != "cpu" and torch.cuda.is_available() else "fp32"


def parse_parameters(pairs: list[str]) -> dict[str, str]:
    """KEY=VALUE pairs. Raises: ModelLoadError: a pair without `=`."""
    for pair in pairs:
        if "=" not in pair:
            raise ModelLoadError(f"--parameter {pair!r} is not of the form KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


@contextmanager
def running(repository_folder: Path, ports: Ports, host: str = "127.0.0.1") -> Iterator[TritonServer]:
    """A tritonserver that is ready; what it says is shown only when it fails.

    Until it has ended, SIGTERM and SIGHUP are what Ctrl-C is: the server has a session of its own.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    server = TritonServer(repository_folder, ports, host)
    with server:
        with errors.status("Starting tritonserver and loading the model"):
            server.wait_until_ready(READY_TIMEOUT_S)
        yield server


def _print_addresses(server: TritonServer) -> None:
    table = Table(title="Serving; Ctrl-C ends it")
    table.add_column("what")
    table.add_column("where")
    table.add_row("HTTP", f"http://{server.host}:{server.ports.http}")
    table.add_row("gRPC", f"{server.host}:{server.ports.grpc}")
    table.add_row("metrics", f"http://{server.host}:{server.ports.metrics}/metrics")
    table.add_row("models", ", ".join(sorted(folder.name for folder in server.repository.iterdir())))
    output.print(table)


def _wait_for_end(server: TritonServer) -> None:
    """Raises: ServerError: the server ended by itself."""
    try:
        code = server.process.wait()
    except KeyboardInterrupt:
        with errors.status("Stopping"):
            server.stop()
        return
    raise ServerError(f"tritonserver ended with code {code}:\n{server.explanation()}")
