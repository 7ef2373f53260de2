# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer request`: one question to a running server, answered token by token."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import errors, output
from .tensor_client import MAX_INT32
from .text_client import chat_prompt, stream, tokenizer_of


def request(
    text: Annotated[str, typer.Argument(help="What to send.", show_default=False)],
    url: Annotated[str, typer.Option(help="gRPC address of the server.")] = "127.0.0.1:8001",
    model: Annotated[str, typer.Option(help="A text model.")] = "text",
    max_tokens: Annotated[int, typer.Option(min=1, max=MAX_INT32, help="Longest answer.")] = 128,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the text into the model's chat template.")
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder with the chat template; default the server's.", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Divides the logits; with top-k or top-p.", show_default=False)
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=0, max=MAX_INT32, help="Draw from so many tokens; default greedy.", show_default=False
        ),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from so much of the probability.", show_default=False)
    ] = None,
    beam_width: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_INT32,
            help="Search with so many beams and print them all, best first.",
            show_default=False,
        ),
    ] = None,
    stop: Annotated[str | None, typer.Option(help="Text that ends the answer.", show_default=False)] = None,
) -> None:
    """Send text to a server and print the answer as it comes."""
    prompt = chat_prompt(tokenizer or tokenizer_of(url, model), text) if chat else text
    optional = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "stop_words": stop,
        "beam_width": beam_width,
    }
    chosen = {name: value for name, value in optional.items() if value is not None}
    ask(url, model, {"text_input": prompt, "max_tokens": max_tokens, **chosen})


def ask(url: str, model: str, fields: dict[str, Any]) -> None:
    """Prints the answer token by token, then what it took."""
    asked = time.perf_counter()
    first, num_tokens = 0.0, 0
    wanted = {"stream": True, "return_num_output_tokens": True}
    for response in stream(url, model, {**fields, **wanted}):
        first = first or time.perf_counter() - asked
        num_tokens += response["num_output_tokens"]
        pieces = response["text_output"]
        text = pieces if isinstance(pieces, str) else "\n\n".join(pieces)
        output.print(text, end="", markup=False, highlight=False, soft_wrap=True)
    total = time.perf_counter() - asked
    output.print()
    rate = f", {(num_tokens - 1) / (total - first):.0f} tokens/s after it" if num_tokens > 1 else ""
    errors.print(f"[dim]{num_tokens} tokens, the first after {first * 1e3:.0f} ms{rate}[/]", highlight=False)
