# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer end-to-end-test`: text through three models one by one, then through ensemble."""

from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from ..errors import FasterTransformerError
from .console import output
from .tensor_client import MAX_UINT32, Protocol, address_of, as_bytes, infer

TEXTS = (
    "The capital of France is",
    "Data sources you can use to make a decision:",
    "if (angle == 0) {",
    "Previous Chapter | Index | Next Chapter",
)


def end_to_end_test(
    text: Annotated[
        list[str] | None, typer.Argument(help="Prompts; default a few.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", "-u", help="Address; default where `serve` listens.")
    ] = None,
    protocol: Annotated[Protocol, typer.Option("--protocol", "-i", help="How to send.")] = Protocol.GRPC,
    output_len: Annotated[
        int, typer.Option("--output-len", "-o", min=1, max=MAX_UINT32, help="Tokens to generate.")
    ] = 24,
    bad_words: Annotated[str, typer.Option(help="Words that must not come, separated by commas.")] = "",
    stop_words: Annotated[str, typer.Option(help="Words that end a text, separated by commas.")] = "",
    top_k: Annotated[
        int, typer.Option(min=0, max=MAX_UINT32, help="Draw from so many tokens; 1 is greedy.")
    ] = 1,
    top_p: Annotated[float, typer.Option(help="Draw from so much of the probability.")] = 0.0,
    beam_width: Annotated[int, typer.Option(min=1, max=MAX_UINT32, help="Beams of a row.")] = 1,
) -> None:
    """Send prompts to preprocessing, fastertransformer and postprocessing, then to ensemble, and compare.

    Prints the texts; an error when the two ways differ.
    """
    texts = text or list(TEXTS)
    batch = len(texts)
    options = {
        "runtime_top_k": np.full((batch, 1), top_k, np.uint32),
        "runtime_top_p": np.full((batch, 1), top_p, np.float32),
        "beam_width": np.full((batch, 1), beam_width, np.uint32),
    }
    words = [_strings([line] * batch) for line in (bad_words, stop_words)]
    given = (_strings(texts), np.full((batch, 1), output_len, np.uint32), *words)

    def ask(model: str, arrays: dict[str, Any]) -> dict[str, Any]:
        return infer(address_of(url, protocol), protocol, model, arrays)

    steps = _three_steps(ask, given, options)
    names = ("INPUT_0", "INPUT_1", "INPUT_2", "INPUT_3")
    whole = ask("ensemble", dict(zip(names, given, strict=True)) | options)["OUTPUT_0"]
    output.print(_table(whole))
    if not np.array_equal(steps, whole):
        output.print(_table(steps))
        raise FasterTransformerError(
            "the three models one by one give other texts, those above, than ensemble"
        )


def _three_steps(ask: Any, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """[batch, beam] texts."""
    names = ("QUERY", "REQUEST_OUTPUT_LEN", "BAD_WORDS_DICT", "STOP_WORDS_DICT")
    before = ask("preprocessing", dict(zip(names, given, strict=True)))
    tokens = ask(
        "fastertransformer",
        {
            "input_ids": before["INPUT_ID"],
            "input_lengths": before["REQUEST_INPUT_LEN"],
            "request_output_len": before["REQUEST_OUTPUT_LEN"],
            "bad_words_list": before["BAD_WORDS_IDS"],
            "stop_words_list": before["STOP_WORDS_IDS"],
            **options,
        },
    )
    after = {"TOKENS_BATCH": tokens["output_ids"], "OUTPUT_LENGTHS": tokens["output_lengths"]}
    return ask("postprocessing", after)["OUTPUT"]


def _strings(rows: list[str]) -> Any:
    return np.array([[as_bytes(row)] for row in rows], dtype=np.object_)


def _table(texts: Any) -> Table:
    table = Table(title="Prompts and what follows", show_header=False, show_lines=True)
    for row, beam in np.ndindex(texts.shape):
        table.add_row(f"{row}.{beam}", escape(texts[row, beam].decode()))
    return table
