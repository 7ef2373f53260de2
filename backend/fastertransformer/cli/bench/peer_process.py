# SPDX-License-Identifier: BSD-3-Clause
"""A peer's process; arguments: NAME FOLDER DATA_TYPE THREADS LOAD_FORMAT.

Reads a Workload as a line of JSON, generates, writes a Measurement, or null when memory ran out. Time to the
first token is measured by generating one token; the rest is spread evenly over the other tokens.
"""

import sys
import time
from pathlib import Path

import msgspec
import torch

from ...errors import FasterTransformerError
from .peers import PEERS, Generate
from .workload import Measurement, Workload, measure


def run(generate: Generate, workload: Workload) -> Measurement:
    """Times one token, then all of them."""
    prompts = workload.prompts()
    start = time.perf_counter()
    tokens = generate(prompts, 1)
    first = total = time.perf_counter() - start
    if workload.output_len > 1:
        start = time.perf_counter()
        tokens = generate(prompts, workload.output_len)
        total = time.perf_counter() - start
    if any(len(made) != workload.output_len for made in tokens):
        raise FasterTransformerError("the peer stopped early; its figures would not compare")
    step = max(total - first, 0) / max(workload.output_len - 1, 1)
    times = [first + step * i for i in range(workload.output_len)]
    return measure([times] * workload.batch, tokens)


def main() -> None:
    name, folder, data_type, num_threads, load_format = sys.argv[1:]
    generate = PEERS[name](Path(folder), data_type, int(num_threads), load_format)
    for line in sys.stdin.buffer:
        try:
            result = run(generate, msgspec.json.decode(line, type=Workload))
        except torch.cuda.OutOfMemoryError:
            result = None
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
