# SPDX-License-Identifier: BSD-3-Clause
"""What workloads cost at least, against figures computed by hand."""

import dataclasses

import pytest
from msgspec.structs import replace

from fastertransformer.cli.bench.floors import Floors, prefill_flops
from fastertransformer.cli.bench.kind import read_model
from fastertransformer.cli.bench.machine import Machine
from fastertransformer.cli.bench.shapes import shape_folder
from fastertransformer.cli.bench.workload import Encoding, Measurement, Workload
from fastertransformer.messages import EngineInfo

MACHINE = Machine(
    device="cuda",
    device_name="a machine",
    torch_version="",
    cuda_version=None,
    num_threads=1,
    data_type="bf16",
    read_bandwidth=4e12,
    matrix_rate=800e12,
)
INFO = EngineInfo(
    model_type="llama",
    vocab_size=32000,
    max_model_len=4096,
    start_id=1,
    end_ids=(),
    plan="",
    step_bytes=13_200_000_000,
    kv_token_bytes=524_288,
)


@pytest.fixture(scope="module")
def floors():
    with shape_folder("llama-2-7b") as folder:
        spec = read_model(folder, "dummy")[0]
    return Floors(machine=MACHINE, spec=spec, info=INFO, max_num_seqs=8)


def measured(total_ms: float, token_ms: float = 0.0) -> Measurement:
    return Measurement(
        ttft_ms=total_ms,
        token_ms_p50=token_ms,
        token_ms_p99=token_ms,
        tokens_per_second=1.0,
        total_ms=total_ms,
        tokens=[],
    )


@pytest.mark.parametrize(
    ("length", "flops"), [(128, 1.62e12), (512, 6.53e12), (2048, 26.9e12), (8192, 120.4e12)]
)
def test_a_prompt_of_llama_2_7b(floors, length, flops):
    assert prefill_flops(floors.spec, Workload(1, length, 1, 32000)) == pytest.approx(flops, rel=0.01)
    assert prefill_flops(floors.spec, Workload(3, length, 1, 32000)) == pytest.approx(3 * flops, rel=0.01)


def test_a_window_bounds_what_a_prompt_attends_to():
    with shape_folder("mistral-7b") as folder:
        spec = read_model(folder, "dummy")[0]
    costs = [prefill_flops(spec, Workload(1, length, 1, 32000)) for length in (16384, 16385, 16386)]
    assert costs[2] - costs[1] == costs[1] - costs[0]


def test_of_a_prompt_the_last_layer_wants_keys_and_values_alone(floors):
    """But of its last token: a layer more costs as much as any other, but for that."""
    one, two, three = (
        prefill_flops(dataclasses.replace(floors.spec, num_hidden_layers=count), Workload(1, 100, 1, 32000))
        for count in (1, 2, 3)
    )
    layer = 2 * 100 * 202_375_168 + 4 * 4096 * 5050
    keys_and_values, token = 2 * 100 * 2 * 4096 * 4096, 2 * (202_375_168 - 2 * 4096 * 4096) + 4 * 4096 * 100
    assert three - two == two - one == layer
    assert one == keys_and_values + token + 2 * 4096 * 32000


def test_an_input_of_bert_base():
    """85 million weights of its layers, and twelve times all pairs of tokens."""
    with shape_folder("bert-base") as folder:
        spec = read_model(folder, "dummy")[0]
    workload = Workload(2, 384, 0, 30522, shortest_input=128)
    flops = 2 * 84_934_656 * (384 + 128) + 12 * 4 * 768 * (384**2 + 128**2)
    assert prefill_flops(spec, workload) == flops
    floors = Floors(machine=MACHINE, spec=spec, info=INFO, max_num_seqs=8)
    run = Encoding(total_ms=1.0, embeddings=[])
    assert floors.share(workload, run) == ("matrix", pytest.approx(flops / 800e12 / 1e-3))


def test_an_input_of_t5_small_goes_through_its_encoder():
    with shape_folder("t5-small") as folder:
        spec = read_model(folder, "dummy")[0]
    encoder = 2 * 18_874_368 * 100 + 6 * 4 * 512 * 100**2
    cross, head = 2 * 2 * 512 * 512 * 6 * 100, 2 * 32128 * 512
    assert prefill_flops(spec, Workload(1, 100, 1, 32128)) == encoder + cross + head


def test_beams_share_what_they_begin_with(floors):
    one, four = (floors.step_bytes(Workload(1, 100, 20, 32000, beam_width=width)) for width in (1, 4))
    assert four - one == pytest.approx(524_288 * 3 * 10)


def test_decoding_is_compared_with_reading(floors):
    workload = Workload(8, 128, 128, 32000)
    step_bytes = 13.2e9 + 524_288 * 8 * 192
    assert floors.step_bytes(workload) == pytest.approx(step_bytes)
    assert floors.share(workload, measured(0, 5.0)) == ("bandwidth", pytest.approx(step_bytes / 4e12 / 5e-3))


def test_tokens_that_come_together_are_compared_by_their_mean_time(floors):
    workload = Workload(8, 128, 128, 32000)
    joined = replace(measured(0), tokens_per_second=8 / 5e-3)
    assert floors.share(workload, joined) == floors.share(workload, measured(0, 5.0))


def test_a_long_prompt_is_compared_with_multiplying(floors):
    assert floors.share(Workload(1, 2048, 1, 32000), measured(40.0)) == (
        "matrix",
        pytest.approx(0.8406, rel=0.01),
    )


def test_a_short_prompt_is_compared_with_reading_the_weights_once(floors):
    assert floors.share(Workload(1, 16, 1, 32000), measured(6.6)) == ("bandwidth", pytest.approx(0.5))


def test_requests_that_wait_are_compared_with_both(floors):
    """24 requests, 8 at a time: three waves of nine steps after all prompts."""
    reads = 3 * 9 * 13.2e9 + 24 * 9 * 524_288 * (512 + 5)
    total = 24 * 6.53e12 / 800e12 + reads / 4e12
    assert floors.share(Workload(24, 512, 10, 32000), measured(2e3 * total)) == (
        "both",
        pytest.approx(0.5, rel=0.01),
    )


def test_devices_that_share_the_work_raise_the_ceiling(floors):
    two = Floors(machine=MACHINE, spec=floors.spec, info=INFO, max_num_seqs=8, num_devices=2)
    workload = Workload(1, 128, 128, 32000)
    assert two.share(workload, measured(0, 5.0))[1] == floors.share(workload, measured(0, 5.0))[1] / 2
