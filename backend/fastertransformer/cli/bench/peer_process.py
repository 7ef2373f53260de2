# SPDX-License-Identifier: BSD-3-Clause
"""A peer's process; arguments: KIND NAME FOLDER DATA_TYPE THREADS LOAD_FORMAT.

Reads a Workload as a line of JSON, computes it, writes a Measurement or an Encoding, or null when memory ran
out. Time to the first token is measured by generating one token; the rest is spread evenly over the others.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec.structs import replace

from ...errors import FasterTransformerError
from .kind import Kind
from .peers import PEERS, Encode, Generate
from .workload import Encoding, Measurement, Workload, measure


def run_generate(generate: Generate, workload: Workload) -> Measurement:
    """Times one token, then all of them."""
    start = time.perf_counter()
    tokens = generate(replace(workload, output_len=1, shortest_output=0))
    first = total = time.perf_counter() - start
    if workload.output_len > 1:
        start = time.perf_counter()
        tokens = generate(workload)
        total = time.perf_counter() - start
    if [len(made) for made in tokens] != workload.output_lens:
        raise FasterTransformerError(
            "the peer did not generate what was asked for; its figures would not compare"
        )
    if total <= first:  # as where tokens are so cheap that the first call's own cost is more: spread evenly
        first = total / workload.output_len
    step = (total - first) / max(workload.output_len - 1, 1)
    return measure([[first + step * i for i in range(len(made))] for made in tokens], tokens)


def run_encode(encode: Encode, workload: Workload) -> Encoding:
    prompts = workload.prompts()
    start = time.perf_counter()
    embeddings = encode(prompts)
    return Encoding(total_ms=(time.perf_counter() - start) * 1e3, embeddings=embeddings)


def main() -> None:
    kind, name, folder, data_type, num_threads, load_format = sys.argv[1:]
    system = PEERS[Kind[kind]][name](Path(folder), data_type, int(num_threads), load_format)
    run: Callable[[Any, Workload], Any] = run_encode if Kind[kind] is Kind.ENCODER else run_generate
    for line in sys.stdin.buffer:
        try:
            result = run(system, msgspec.json.decode(line, type=Workload))
        except torch.cuda.OutOfMemoryError:
            result = None
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
