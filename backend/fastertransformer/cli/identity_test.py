# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer identity-test`: the same token ids again and again, for latency and equal answers."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from ..errors import FasterTransformerError
from .console import output
from .tensor_client import MAX_UINT32, Arrays, Protocol, address_of, infer, stream

QUANTILES = (50, 90, 99)


def identity_test(
    url: Annotated[
        str | None, typer.Option("--url", "-u", help="Address; default where `serve` listens.")
    ] = None,
    protocol: Annotated[Protocol, typer.Option("--protocol", "-i", help="How to send.")] = Protocol.GRPC,
    model: Annotated[str, typer.Option(help="A model of token ids.")] = "fastertransformer",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Rows of a request.")] = 8,
    input_len: Annotated[int, typer.Option("--input-len", "-s", min=1, help="Tokens of a prompt.")] = 8,
    output_len: Annotated[
        int, typer.Option("--output-len", "-o", min=1, max=MAX_UINT32, help="Tokens to generate.")
    ] = 24,
    random_ids: Annotated[
        bool, typer.Option("--random-ids", "-r", help="Random prompts; default 1, 2, 3 and so on.")
    ] = False,
    vocab_size: Annotated[
        int, typer.Option(min=2, max=MAX_UINT32, help="Prompts have ids below this.")
    ] = 32000,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of random prompts and of sampling.")] = 0,
    num_runs: Annotated[int, typer.Option("--num-runs", "-n", min=1, help="Requests that are timed.")] = 10,
    warm_up: Annotated[int, typer.Option("--warm-up", "-w", min=0, help="Requests before them.")] = 2,
    beam_width: Annotated[int, typer.Option(min=1, max=MAX_UINT32, help="Beams of a row.")] = 1,
    top_k: Annotated[
        int, typer.Option(min=0, max=MAX_UINT32, help="Draw from so many tokens; 1 is greedy.")
    ] = 1,
    top_p: Annotated[float, typer.Option(help="Draw from so much of the probability.")] = 0.0,
    decoupled: Annotated[
        bool, typer.Option("--decoupled", "-d", help="Stream from a decoupled model, over gRPC.")
    ] = False,
    output_file: Annotated[
        Path | None, typer.Option(help="Write output_ids into this file, a row a line.", show_default=False)
    ] = None,
) -> None:
    """Send one request of token ids many times: a table of latencies, and an error when the answers differ.

    Every row generates --output-len tokens: the end token is banned up to there.
    """
    arrays = {
        "input_ids": prompts(batch_size, input_len, vocab_size, seed if random_ids else None),
        **_columns(np.uint32, batch_size, input_lengths=input_len, request_output_len=output_len),
        **_columns(np.uint32, batch_size, beam_width=beam_width, runtime_top_k=top_k),
        **_columns(np.float32, batch_size, runtime_top_p=top_p),
        **_columns(np.uint64, batch_size, random_seed=seed),
        **_columns(np.int32, batch_size, min_length=output_len + 1),
    }
    address = address_of(url, Protocol.GRPC if decoupled else protocol)

    def send() -> Any:
        return _last(address, model, arrays) if decoupled else infer(address, protocol, model, arrays)

    seconds, ids = measure(send, warm_up, num_runs)
    output.print(_table(seconds, batch_size, output_len))
    if output_file is not None:
        np.savetxt(output_file, ids.reshape(-1, ids.shape[-1]), fmt="%d")


def prompts(batch: int, length: int, vocab_size: int, seed: int | None) -> Any:
    """[batch, length] uint32: random with a seed, else 1, 2, 3 … over all rows, below vocab_size."""
    if seed is not None:
        return np.random.default_rng(seed).integers(0, vocab_size, (batch, length), np.uint32)
    return (1 + np.arange(batch * length, dtype=np.uint32) % (vocab_size - 1)).reshape(batch, length)


def measure(send: Callable[[], Any], warm_up: int, num_runs: int) -> tuple[list[float], Any]:
    """Seconds of each run, and the output_ids that all gave.

    Raises:
        FasterTransformerError: a run gave others than the first one.
    """
    seconds, first = [], None
    for run in range(warm_up + num_runs):
        start = time.perf_counter()
        ids = send()["output_ids"]
        seconds.append(time.perf_counter() - start)
        first = ids if first is None else first
        if not np.array_equal(ids, first):
            raise FasterTransformerError(f"request {run} was answered with other tokens than the first one")
    return seconds[warm_up:], first


def _columns(dtype: Any, batch: int, **values: Any) -> dict[str, Any]:
    return {name: np.full((batch, 1), value, dtype) for name, value in values.items()}


def _last(address: str, model: str, arrays: Arrays) -> Any:
    responses = list(stream(address, model, arrays))
    return responses[-1]


def _table(seconds: list[float], batch_size: int, output_len: int) -> Table:
    milliseconds = np.array(seconds) * 1e3
    table = Table(title=f"{len(seconds)} requests of {batch_size} rows, {output_len} tokens each")
    for column in ("mean ms", *(f"p{q} ms" for q in QUANTILES), "ms per token", "tokens/s"):
        table.add_column(column, justify="right")
    mean = float(milliseconds.mean())
    figures = [mean, *np.percentile(milliseconds, QUANTILES), mean / output_len]
    rate = batch_size * output_len / mean * 1e3
    table.add_row(*(f"{value:.2f}" for value in figures), f"{rate:.0f}")
    return table
