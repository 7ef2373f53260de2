# SPDX-License-Identifier: BSD-3-Clause
"""Run by mpirun, on GPUs that ranks may share: collectives through the GPUs' own memory.

Usage: all_reduce_program.py check | late | late-norm | late-two-shots-norm
"""

import itertools
import sys
import time
import traceback
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastertransformer import _C, ops
from fastertransformer.layers.norm import LayerNorm, NormLayer, RmsNorm
from fastertransformer.parallel.mpi import MpiWorld, abort, place_on_node
from fastertransformer.parallel.peers import TIMEOUT_S, PeerCommunicator, connect_peers

from mpi4py import MPI  # isort: skip - after the import that chooses its thread level

KINDS = {"one shot": _C.cuda.all_reduce_one_shot, "two shots": _C.cuda.all_reduce_two_shot}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NUM_BYTES = (16, 12, 48, 68, 1000, 8192, 65532, 1 << 18, (1 << 20) + 36, 1 << 22)
ROWS = (1, 3, 64, 129, 300)  # blocks have one row, or two, or the last one fewer than the others
COLUMNS = (128, 768, 4096, 4100, 8200, 16384)  # of one warp; of 1, 2 and 4 packs for each thread
REPEATS = 100
GUARD = 64

Call = Callable[[Tensor, Tensor, NormLayer], Tensor]
LATE: dict[str, Callable[[PeerCommunicator], Call]] = {
    "late": lambda peers: lambda x, residual, norm: peers.all_reduce(x),
    "late-norm": lambda peers: peers.one_shot_norm,
    "late-two-shots-norm": lambda peers: peers.two_shots_norm,
}
"""What the ranks call first when one of them stays away."""


def everyones(seed: int, shape: tuple[int, ...], dtype: torch.dtype, peers: PeerCommunicator) -> list[Tensor]:
    """The random tensors of all ranks, on each of them."""
    tensors = []
    for rank in range(peers.size):
        generator = torch.Generator("cuda").manual_seed(seed * peers.size + rank)
        tensors.append(torch.randn(shape, generator=generator, device="cuda").to(dtype))
    return tensors


def total(tensors: list[Tensor]) -> Tensor:
    """In fp32 and in rank order, rounded once: the bits that every rank must have."""
    result = tensors[0].float()
    for tensor in tensors[1:]:
        result = result + tensor.float()
    return result.to(tensors[0].dtype)


def check_sums(peers: PeerCommunicator) -> None:
    """Sizes, kinds and types follow each other closely, with new data every time and guards around it."""
    stream = torch.cuda.current_stream().cuda_stream
    for repeat in range(REPEATS):
        for number, num_bytes in enumerate(NUM_BYTES):
            dtype = DTYPES[(repeat + number) % len(DTYPES)]
            size = num_bytes // dtype.itemsize
            for kind, kernel in KINDS.items():
                if kind == "one shot" and num_bytes > peers.max_gather_bytes:
                    continue
                parts = everyones(repeat * 100 + number, (size,), dtype, peers)
                memory = torch.full((size + 2 * GUARD,), 77, dtype=dtype, device="cuda")
                x = memory[GUARD:-GUARD].copy_(parts[peers.rank])
                kernel(x, peers.arena, stream)
                what = f"{kind}, {size} x {dtype}, repeat {repeat}"
                assert torch.equal(x, total(parts)), what
                assert (memory[:GUARD] == 77).all(), what
                assert (memory[-GUARD:] == 77).all(), what


def norms_of(columns: int, dtype: torch.dtype) -> tuple[NormLayer, NormLayer]:
    """The same on every rank."""
    generator = torch.Generator("cuda").manual_seed(columns)
    weight, bias = torch.randn((2, columns), generator=generator, device="cuda").to(dtype)
    return RmsNorm(weight.clone(), 1e-5), LayerNorm(weight.clone(), bias.clone(), 1e-5)


def ways_with_norm(peers: PeerCommunicator, x: Tensor) -> dict[str, Call]:
    """The one that is chosen, and the kernels that can take `x`."""
    row_bytes = x.shape[1] * x.itemsize
    ways: dict[str, Call] = {"chosen": peers.all_reduce_norm}
    if row_bytes % 16:
        return ways
    if row_bytes <= 2 * peers.arena.block_bytes and x.nbytes <= peers.max_gather_bytes:
        ways["one shot"] = peers.one_shot_norm
    if row_bytes <= peers.arena.block_bytes:
        ways["two shots"] = peers.two_shots_norm
    return ways


def check_norms(peers: PeerCommunicator) -> None:
    """Sum, residual sum and norm at once have the bits of one behind the other, and touch nothing else."""
    for dtype, columns, rows in itertools.product(DTYPES, COLUMNS, ROWS):
        parts = everyones(rows, (rows, columns), dtype, peers)
        whole, before = total(parts), parts[0].flip(0)
        for norm in norms_of(columns, dtype):
            residual = before.clone()
            expected = norm.add(whole, residual)
            for way, run in ways_with_norm(peers, whole).items():
                what = f"{way}, {type(norm).__name__} of {rows} x {columns} x {dtype}"
                memory = torch.full((rows + 2, columns), 77, dtype=dtype, device="cuda")
                stream = memory[1:-1].copy_(before)
                assert torch.equal(run(parts[peers.rank].clone(), stream, norm), expected), what
                assert torch.equal(stream, residual), what
                assert (memory[[0, -1]] == 77).all(), what


def check_awkward(peers: PeerCommunicator) -> None:
    """What may not look like an empty buffer, and what is neither contiguous nor aligned."""
    for dtype, integer in ((torch.float32, torch.int32), (torch.float16, torch.int16)):
        ones = torch.full((5000,), -1, dtype=integer, device="cuda").view(dtype)
        assert peers.all_reduce(ones.clone()).isnan().all()
        assert peers.all_gather(ones.view(5, 1000), 1).isnan().all()
    for repeat in range(3):
        parts = everyones(repeat, (33, 65), torch.bfloat16, peers)
        assert torch.equal(peers.all_reduce(parts[peers.rank].t()), total(parts).t())
        assert torch.equal(peers.all_reduce(parts[peers.rank][1:]), total(parts)[1:])
    assert peers.all_reduce(torch.empty(0, device="cuda")).shape == (0,)
    check_awkward_norms(peers)


def check_awkward_norms(peers: PeerCommunicator) -> None:
    """The same for what a norm follows; also no rows."""
    for dtype, integer in ((torch.float32, torch.int32), (torch.float16, torch.int16)):
        ones = torch.full((5, 1024), -1, dtype=integer, device="cuda").view(dtype)
        for norm in norms_of(1024, dtype):
            for run in (peers.one_shot_norm, peers.two_shots_norm):
                assert run(ones.clone(), torch.zeros_like(ones), norm).isnan().all()
            assert peers.all_reduce_norm(ones[:0], ones[:0], norm).shape == (0, 1024)
    for columns in (64, 65):
        parts = everyones(columns, (33, columns), torch.bfloat16, peers)
        for norm in norms_of(columns, torch.bfloat16):
            for cut in (lambda x: x.t().contiguous().t(), lambda x: x[1:]):
                given, whole = cut(parts[peers.rank].clone()), cut(total(parts)).contiguous()
                residual = torch.ones_like(whole)
                stream = whole.new_ones((len(whole), columns + 8))[:, :columns]
                expected = norm.add(whole, residual)
                assert torch.equal(peers.all_reduce_norm(given, stream, norm), expected)
                assert torch.equal(stream, residual)


def check_gathers(peers: PeerCommunicator) -> None:
    """Rows of whole packs and others, in one kernel and in several."""
    for number, shape in enumerate([(1, 1), (1, 16000), (3, 501), (64, 128), (5, 1), (40, 50001)] * 3):
        parts = everyones(number, shape, DTYPES[number % len(DTYPES)], peers)
        assert torch.equal(peers.all_gather(parts[peers.rank], 1), torch.cat(parts, 1)), shape


def check_graph(peers: PeerCommunicator) -> None:
    """One capture, many replays, and other calls in between."""
    small = torch.empty((3, 4096), dtype=torch.bfloat16, device="cuda")
    large = torch.empty(300_001, device="cuda")
    logits = torch.empty((3, 501), device="cuda")
    prompt = torch.empty((301, 4096), dtype=torch.bfloat16, device="cuda")
    static = (small, large, logits, prompt)
    norm, _ = norms_of(4096, torch.bfloat16)

    def step() -> list[Tensor]:
        twice = peers.all_reduce(peers.all_reduce(small.clone()).clone())
        normed = [peers.all_reduce_norm(x.clone(), torch.ones_like(x), norm) for x in (small, prompt)]
        return [twice, peers.all_reduce(large.clone()), peers.all_gather(logits, 1), *normed]

    def fill(seed: int) -> list[Tensor]:
        """Also returns what `step` must give."""
        parts = [everyones(seed, tuple(x.shape), x.dtype, peers) for x in static]
        for x, part in zip(static, parts, strict=True):
            x.copy_(part[peers.rank])
        once, last = total(parts[0]), total(parts[3])
        normed = [norm.add(x, torch.ones_like(x)) for x in (once, last)]
        return [total([once] * peers.size), total(parts[1]), torch.cat(parts[2], 1), *normed]

    fill(0)
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for repeat in range(REPEATS):
        expected = fill(repeat)
        graph.replay()
        for result, wanted in zip(results, expected, strict=True):
            assert torch.equal(result, wanted), repeat
        if repeat % 10 == 0:
            parts = everyones(repeat, (7, 4096), torch.float16, peers)
            wanted = total(parts)
            assert torch.equal(peers.all_reduce(parts[peers.rank]), wanted)


def check_world(device: torch.device, size: int) -> None:
    """The communicator that an engine gets, with what is too large for one kernel or for the peers at all."""
    world = MpiWorld(size, 1, device)
    for number, elements in enumerate([4096, 300_000, 6_000_001]):
        x = torch.full((elements,), float(world.mesh.rank + number), device=device)
        assert (world.tensor_group.all_reduce(x) == sum(range(size)) + number * size).all()
    for norm, rows in itertools.product(norms_of(4096, torch.float32), (1, 300, 1000)):
        x = torch.full((rows, 4096), 1.0 + world.mesh.rank, device=device)
        x[:, ::2] = 0
        stream, residual = torch.zeros_like(x), torch.zeros_like(x)
        expected = norm.add(x / (1.0 + world.mesh.rank) * sum(range(1, size + 1)), residual)
        assert torch.equal(world.tensor_group.all_reduce_norm(x, stream, norm), expected)
        assert torch.equal(stream, residual)
    world.check()


def check_late(peers: PeerCommunicator, first: Call) -> None:
    """One rank stays away: the others stop waiting, say so, and never wait again; it hears of it too.

    Args:
        first: what it does not join.
    """
    absent = peers.size - 1
    x = torch.ones((3, 1000), device="cuda")
    norms = norms_of(1000, torch.float32)
    peers.check()
    if peers.rank != absent:
        for least, most in ((0.9 * TIMEOUT_S, 4 * TIMEOUT_S), (0, 2)):
            start = time.monotonic()
            for norm in norms * 5:
                for run in (first, peers.all_reduce_norm, peers.two_shots_norm):
                    run(x, torch.ones_like(x), norm)
                peers.all_reduce(x)
            torch.cuda.synchronize()
            assert least <= time.monotonic() - start <= most
    MPI.COMM_WORLD.Barrier()
    peers.all_reduce(x)
    torch.cuda.synchronize()
    with pytest.raises(RuntimeError, match=f"rank {absent} did not join"):
        peers.check()


def main(what: str) -> None:
    ranks = MPI.COMM_WORLD
    local_rank, _ = place_on_node()
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    ops.set_device(device.index)
    peers = connect_peers(ranks, device)
    if what in LATE:
        check_late(peers, LATE[what](peers))
    else:
        check_sums(peers)
        check_norms(peers)
        check_awkward(peers)
        check_gathers(peers)
        check_graph(peers)
        check_world(device, ranks.size)
        peers.check()
    print(f"rank {ranks.rank} of {ranks.size} is fine", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception:
        traceback.print_exc()
        abort(1)
