# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer serve`: a checkpoint becomes a model repository, and a tritonserver serves it."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from . import repository
from .console import errors, output
from .repository import Contract
from .tritonserver import Ports, ServerError, TritonServer

READY_TIMEOUT_S = 900.0


def serve(
    path: Annotated[
        Path | None,
        typer.Argument(help="Hugging Face folder, FasterTransformer's own or GGUF file.", show_default=False),
    ] = None,
    model_repository: Annotated[
        Path | None, typer.Option(help="Serve this repository as it is, instead of PATH.", show_default=False)
    ] = None,
    tensor_para_size: repository.TensorParaSize = 1,
    pipeline_para_size: repository.PipelineParaSize = 1,
    instances: repository.Instances = 1,
    data_type: repository.DataType = "auto",
    decoupled: repository.Decoupled = False,
    contract: repository.ContractOption = Contract.FASTERTRANSFORMER,
    interactive: repository.Interactive = False,
    device: repository.Device = "auto",
    parameter: repository.Parameter = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="Port of HTTP.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Port of gRPC.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port of Prometheus metrics, over HTTP.")] = 8002,
) -> None:
    """Serve a checkpoint with Triton until Ctrl-C.

    Clients find the models [bold]text[/] (text in, text out), [bold]fastertransformer[/] (token ids) and
    [bold]ensemble[/] with its pre- and postprocessing; with --contract tensorrt_llm the models
    [bold]tensorrt_llm[/] (token ids), and [bold]tensorrt_llm_bls[/] and [bold]ensemble[/] (text);
    of an encoder [bold]embed[/] and [bold]classify[/] (text in), and [bold]fastertransformer[/]; of an
    encoder-decoder [bold]text[/] and [bold]fastertransformer[/].
    """
    ports = Ports(http_port, grpc_port, metrics_port)
    if (path is None) == (model_repository is None):
        raise typer.BadParameter("give either PATH or --model-repository")
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        if path is not None:
            repository.repository(
                path,
                Path(folder),
                tensor_para_size=tensor_para_size,
                pipeline_para_size=pipeline_para_size,
                instances=instances,
                data_type=data_type,
                decoupled=decoupled,
                contract=contract,
                interactive=interactive,
                device=device,
                parameter=parameter,
            )
        with running(model_repository or Path(folder), ports, host) as server:
            _print_addresses(server)
            _wait_for_end(server)


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
