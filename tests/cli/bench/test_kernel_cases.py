# SPDX-License-Identifier: BSD-3-Clause
"""Every case of the kernel bench computes, ours and torch alike, and is charged for what it reads."""

import json

import pytest
import torch
from tiny_model import TINY

from fastertransformer.cli.bench.kernels.case import Case, Inputs
from fastertransformer.cli.bench.kernels.cases import Sizes, all_cases
from fastertransformer.cli.bench.kernels.measure import kernel_row, measure_case, num_copies
from fastertransformer.cli.bench.kind import read_model
from fastertransformer.cli.bench.machine import Machine
from fastertransformer.cli.bench.timing import best_seconds, seconds_per_call
from fastertransformer.ops.registry import OPS

GPT2 = {"model_type": "gpt2", "vocab_size": 101, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128}
GPT_J = GPT2 | {"model_type": "gptj", "rotary_dim": 8}
MIXTRAL = TINY | {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2}
SIZES = Sizes(rows=[1, 3], tokens=[1, 5], decode=[(1, 33), (2, 17)], prefill=[(2, 9)])
ITEMSIZE = 4
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
MACHINE = Machine(
    device="cpu",
    device_name="a machine",
    torch_version="",
    cuda_version=None,
    num_threads=1,
    data_type="fp32",
    read_bandwidth=1e9,
    matrix_rate=1e10,
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Case]:
    """Of a llama, a GPT-2, a GPT-J and a Mixtral, all tiny."""
    specs = []
    for config in (TINY, GPT2, GPT_J, MIXTRAL):
        folder = tmp_path_factory.mktemp("model")
        (folder / "config.json").write_text(json.dumps(config))
        specs.append(read_model(folder, "dummy")[0])
    return all_cases(specs, ITEMSIZE, SIZES)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_every_case_computes(cases, device):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for case in cases:
        inputs = Inputs(torch.device(device), dtype)
        result = OPS[case.op].body(*case.make(inputs))
        assert result is None or not result.is_floating_point() or bool(result.isfinite().all()), case
        case.peer(inputs)()


def test_every_op_has_a_case(cases):
    assert set(OPS) - {case.op for case in cases} == set()


def test_no_case_comes_twice(cases):
    assert len({(case.op, case.sizes) for case in cases}) == len(cases)


def test_products_are_charged_for_weights_inputs_and_outputs(cases):
    dense, int8 = [case for case in cases if case.sizes == "up 192x64 M=3"]
    assert dense.num_bytes == (192 * 64 + 3 * 64 + 3 * 192) * ITEMSIZE
    assert int8.num_bytes == 192 * (64 + 4) + (3 * 64 + 3 * 192) * ITEMSIZE
    assert dense.flops == int8.flops == 2 * 3 * 192 * 64


def test_experts_are_charged_for_those_that_are_chosen(cases):
    few, many = [case for case in cases if case.op == "grouped_linear"]
    assert (few.sizes, many.sizes) == ("5x96x64 P=2", "5x96x64 P=6")
    assert few.num_bytes == (2 * 96 * 64 + 2 * (96 + 64)) * ITEMSIZE
    assert many.num_bytes == (5 * 96 * 64 + 6 * (96 + 64)) * ITEMSIZE
    assert many.flops == 2 * 6 * 96 * 64


def test_attention_is_charged_for_the_keys_that_it_sees(cases):
    decode, prefill = (
        next(case for case in cases if case.sizes == sizes)
        for sizes in ("decode 4/2x16 1x33", "prefill 4/2x16 2x9")
    )
    assert decode.num_bytes == (2 * 4 * 16 + 2 * 33 * 2 * 16) * ITEMSIZE
    assert decode.flops == 4 * 4 * 16 * 33
    assert prefill.flops == 2 * 4 * 4 * 16 * (9 * 10 // 2)


@pytest.mark.parametrize("kind", ["decode 4/2x16 2x17", "prefill 4/2x16 2x9"])
def test_the_peer_of_attention_does_the_same_work(cases, kind):
    (case,) = [case for case in cases if case.sizes == kind]
    inputs = Inputs(torch.device("cpu"), torch.float32)
    ours = OPS["paged_attention"].body(*case.make(inputs))
    assert case.peer(inputs)().numel() == ours.numel()


def test_figures_of_a_row():
    case = Case(op="rms_norm", sizes="a size", make=lambda _: (), num_bytes=1000, flops=20_000)
    row = kernel_row(case, MACHINE, 4e-6, 8e-6)
    assert row.ceiling == "matrix"  # 2 us of products, 1 us of reading
    assert row.share == pytest.approx(0.5)
    assert row.gb_per_second == pytest.approx(0.25)
    assert row.speed_up == pytest.approx(2)
    without = kernel_row(case, MACHINE, None, 8e-6)
    assert (without.us, without.share, without.speed_up) == (None, None, None)


@pytest.mark.parametrize("is_taken", [True, False])
def test_what_no_kernel_takes_has_torchs_figures_alone(is_taken):
    case = Case(
        op="rms_norm",
        sizes="a size",
        make=lambda inputs: (inputs.normal(4, 64), inputs.normal(64), 1e-6),
        num_bytes=1000,
        is_taken=lambda arguments: is_taken and arguments[0].shape == (4, 64),
    )
    row = measure_case(case, MACHINE)
    assert row.torch_us > 0
    assert (row.us is not None) == is_taken


def test_small_arguments_rotate_more_often():
    cpu = torch.device("cpu")
    small, large = num_copies((torch.zeros(8),), cpu), num_copies((torch.zeros(1 << 26),), cpu)
    assert large == 1 < small


def test_times_are_those_of_single_calls(monkeypatch):
    """The shortest, by a clock that only calls advance."""
    cpu, now, num_calls = torch.device("cpu"), 0.0, 0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def call() -> None:
        nonlocal now, num_calls
        num_calls += 1
        now += 2.0 if num_calls == 3 else 5.0

    assert best_seconds(call, cpu) == 2.0
    assert seconds_per_call([call] * 3, cpu) == 5.0
