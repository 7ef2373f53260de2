# SPDX-License-Identifier: BSD-3-Clause
"""What parameters mean that depend on the machine."""

import pytest

from fastertransformer.config import EngineConfig, check, from_triton, on_device, resolve_data_type
from fastertransformer.errors import ModelLoadError


@pytest.mark.parametrize(
    ("data_type", "device", "resolved"),
    [("auto", "cpu", "fp32"), ("auto", "cuda", "bf16"), ("fp16", "cpu", "fp16"), ("fp32", "cuda", "fp32")],
)
def test_data_type(data_type, device, resolved):
    assert resolve_data_type(data_type, device) == resolved


def test_what_was_given_stays_on_every_device():
    given = EngineConfig(
        model_checkpoint_path="x", data_type="fp16", max_num_seqs=3, max_num_batched_tokens=5
    )
    assert on_device(given, "cpu") == on_device(given, "cuda") == given
    left = EngineConfig(model_checkpoint_path="x", data_type="auto")
    cpu, gpu = on_device(left, "cpu"), on_device(left, "cuda")
    assert (cpu.data_type, gpu.data_type) == ("fp32", "bf16")
    assert 0 < cpu.max_num_seqs < gpu.max_num_seqs
    assert 0 < cpu.max_num_batched_tokens < gpu.max_num_batched_tokens
    encoder = on_device(left, "cuda", encodes=True)
    assert encoder.max_num_batched_tokens > gpu.max_num_batched_tokens
    assert on_device(left, "cpu", encodes=True) == cpu


def test_unknown_data_type():
    with pytest.raises(ModelLoadError, match="data_type is 'fp12'; allowed are fp32, fp16, bf16, auto"):
        resolve_data_type("fp12", "cpu")


def test_lists_of_words():
    given = {
        "model_checkpoint_path": "x",
        "mpi_args": "--mca btl self,tcp",
        "disable_kernels": "rope, add",
    }
    config = from_triton(given)
    assert config.parallel.mpi_args == ("--mca", "btl", "self,tcp"), "a comma is part of an argument"
    assert config.disable_kernels == ("rope", "add")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_num_seqs": 10**10}, r"max_num_seqs is 10000000000; allowed is \[0, 16384\]"),
        ({"max_num_seqs": -1}, r"max_num_seqs is -1; allowed is \[0, 16384\]"),
        ({"num_threads": 99999}, r"num_threads is 99999; allowed is \[0, 1024\]"),
    ],
)
def test_what_no_machine_has_room_for(changes, message):
    with pytest.raises(ModelLoadError, match=message):
        check(EngineConfig(model_checkpoint_path="x", **changes))
