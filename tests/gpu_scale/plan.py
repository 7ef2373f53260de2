# SPDX-License-Identifier: BSD-3-Clause
"""What is checked and measured: steps, each a command with the GPUs that it needs and a time-out."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastertransformer.cli.bench.floors import layer_weights
from fastertransformer.cli.bench.kernels.cases import spec_of_shape

from .hardware import Hardware

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-c", "from fastertransformer.cli.main import main; main()")
PYTEST = (sys.executable, "-m", "pytest", "-m", "gpu", "--tb=short")

RANKS = (2, 4, 8)
MESHES = ((2, 1), (1, 2), (4, 1), (2, 2), (1, 4), (8, 1), (4, 2), (2, 4))
SHAPES = ("llama-2-7b", "gpt-neox-20b", "llama-2-70b")
SHAPE_MESHES = ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2))
BATCHES = (1, 8, 64)
INPUT_LEN = 128
OUTPUT_LEN = 64
_ITEMSIZE = 2  # bf16
_CONTEXT_BYTES = 2 << 30
"""CUDA itself, its libraries and activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command, which runs in ROOT and sees `gpus` GPUs."""

    name: str
    gpus: int
    command: tuple[str, ...]
    timeout: float
    """Seconds."""
    figures: str = ""
    """Name of the file that it writes with --json; empty: it measures nothing."""
    labels: tuple[str, str] = ("", "")
    """Of figures of a model: its name, T x P."""
    missing: str = ""
    """Why this machine cannot run it; empty if it can."""


def make_plan(hardware: Hardware) -> list[Step]:
    """All steps, also those that this machine cannot run; checks first, should time run out."""
    return [
        *(sums_step(ranks, hardware, norm) for ranks in RANKS for norm in (False, True)),
        *_equality(hardware),
        *_deaths(hardware),
        *_groups(hardware),
        *_models(hardware),
    ]


def sums_step(ranks: int, hardware: Hardware, norm: bool = False) -> Step:
    """Where GPUs are too few, ranks share one: their sums are checked all the same.

    Args:
        norm: measures sums with the residual and the norm behind them.
    """
    shares = ranks > len(hardware.gpus)
    sizes = "8K,64K,1M,16M" if shares else "16K,64K,256K,1M,4M" if norm else ""
    options = (
        *(("--share-gpus",) if shares else ()),
        *((f"--size={sizes}",) if sizes else ()),
        *(("--norm",) if norm else ()),
    )
    kind = "sums with norms" if norm else "sums"
    return Step(
        name=f"{kind} over {ranks} ranks" + (" on one GPU" if shares else ""),
        gpus=1 if shares else ranks,
        command=(*PROGRAM, "bench-collectives", f"--ranks={ranks}", *options),
        timeout=90,
        figures=f"{'norms' if norm else 'sums'}-{ranks}",
    )


def model_step(
    name: str,
    arguments: Sequence[str],
    mesh: tuple[int, int],
    missing: str = "",
    batches: Sequence[int] = BATCHES,
    lengths: tuple[int, int] = (INPUT_LEN, OUTPUT_LEN),
) -> Step:
    """One model with random weights on one mesh.

    Args:
        arguments: of `bench`: which model, in which data type.
    """
    tp, pp = mesh
    return Step(
        name=f"{name} {tp}x{pp}",
        gpus=tp * pp,
        command=(
            *(*PROGRAM, "bench", *arguments, f"--batch={','.join(map(str, batches))}", "--repetitions=1"),
            *(f"--input-len={lengths[0]}", f"--output-len={lengths[1]}"),
            *(f"--parameter=tensor_para_size={tp}", f"--parameter=pipeline_para_size={pp}"),
        ),
        timeout=180,
        figures=f"{name}-{tp}x{pp}",
        labels=(name, f"{tp} x {pp}"),
        missing=missing,
    )


def _equality(hardware: Hardware) -> Iterator[Step]:
    file = "tests/worker/test_meshes.py"
    for tp, pp in MESHES:
        node = f"{file}::test_meshes_of_gpus[{tp}x{pp}]"
        yield _test(f"tiny model equal on {tp}x{pp}", tp * pp, node, hardware)
    yield _test(
        "tiny model equal on ranks that share a GPU", 1, f"{file}::test_ranks_that_share_a_gpu", hardware
    )


def _deaths(hardware: Hardware) -> Iterator[Step]:
    everything = min(len(hardware.gpus), max(RANKS))
    where = f"kill -9 of one of {everything} ranks"
    yield _test(f"{where}, engine", everything, "tests/worker/test_death.py", hardware)
    yield _test(f"{where}, tritonserver", everything, "tests/server/test_faults.py", hardware)


def _groups(hardware: Hardware) -> Iterator[Step]:
    everything = len(hardware.gpus)
    yield _test("instance groups, engines", everything, "tests/worker/test_groups.py", hardware)
    yield _test("instance groups, tritonserver", everything, "tests/server/test_instances.py", hardware)


def _models(hardware: Hardware) -> Iterator[Step]:
    for shape in SHAPES:
        needed = memory_needed(shape)
        for mesh in SHAPE_MESHES:
            gpus = math.prod(mesh)
            missing = _too_few(gpus, hardware) or _too_small(needed, gpus, hardware)
            yield model_step(shape, ("--shape", shape, "--data-type=bf16"), mesh, missing)


def _test(name: str, gpus: int, node: str, hardware: Hardware) -> Step:
    """A file of tests or one of them; those that need a GPU."""
    return Step(name=name, gpus=gpus, command=(*PYTEST, node), timeout=120, missing=_too_few(gpus, hardware))


def memory_needed(shape: str) -> int:
    """Bytes of weights and of the cache for the largest batch."""
    spec = spec_of_shape(shape)
    weights = spec.num_hidden_layers * layer_weights(spec) + 2 * spec.vocab_size * spec.hidden_size
    tokens = max(BATCHES) * (INPUT_LEN + OUTPUT_LEN)
    cached = 2 * spec.num_hidden_layers * spec.num_key_value_heads * spec.head_dim * tokens
    return _ITEMSIZE * (weights + cached)


def _too_few(gpus: int, hardware: Hardware) -> str:
    return f"needs {gpus} GPUs, there are {len(hardware.gpus)}" if gpus > len(hardware.gpus) else ""


def _too_small(needed: int, gpus: int, hardware: Hardware) -> str:
    of_one = needed // gpus + _CONTEXT_BYTES
    if of_one <= hardware.memory:
        return ""
    return f"needs {of_one / 1e9:.0f} GB of each GPU, they have {hardware.memory / 1e9:.0f}"
