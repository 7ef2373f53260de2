# SPDX-License-Identifier: BSD-3-Clause
"""Models that load, share an engine and leave, and models that fail to load with the reason named."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import client_tools as ct
import pytest
import tritonclient.grpc as grpcclient
from explicit import explicit_server, left, unload
from repositories import write_model
from triton_process import TritonServer, wait_for
from tritonclient.utils import InferenceServerException

from fastertransformer.cli import tensor_client


@pytest.fixture(scope="module", name="explicit_server")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with explicit_server(tmp_path_factory.mktemp("explicit")) as server:
        yield server


@pytest.fixture
def client(explicit_server: TritonServer) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(explicit_server.grpc) as connected:
        yield connected


@pytest.fixture
def models(explicit_server: TritonServer) -> Path:
    return explicit_server.folder / "models"


def test_instances_and_models_share_an_engine_that_the_last_one_ends(
    explicit_server: TritonServer, client: grpcclient.InferenceServerClient, models: Path, llama: Path
) -> None:
    write_model(models, llama, "fastertransformer", instances=2)
    write_model(models, llama, "text")
    client.load_model("fastertransformer")
    client.load_model("text")
    assert len(explicit_server.sockets()) == 1
    assert len(explicit_server.engine_processes()) == 2  # its guard and one rank
    unload(client, "fastertransformer")
    assert len(explicit_server.engine_processes()) == 2
    status, _ = ct.post(f"{explicit_server.http}/v2/models/text/generate", {"text_input": "a"})
    assert status == 200
    unload(client, "text")
    assert left(explicit_server) == []


def parameter(key: str, value: str) -> str:
    return f'key: "{key}" value: {{ string_value: "{value}" }}'


# What in config.pbtxt is replaced by what, and what the error says.
BROKEN_CONFIGS = {
    "data_type": ('"fp32"', '"fp12"', "data_type is 'fp12'; allowed are fp32, fp16, bf16"),
    "number": (
        parameter("tensor_para_size", "1"),
        parameter("tensor_para_size", "two"),
        "is 'two'; expected an integer",
    ),
    "zero": (
        parameter("tensor_para_size", "1"),
        parameter("tensor_para_size", "0"),
        "the smallest allowed value is 1",
    ),
    "heads": (parameter("tensor_para_size", "1"), parameter("tensor_para_size", "3"), "tensor_para_size"),
    "layers": (
        parameter("pipeline_para_size", "1"),
        parameter("pipeline_para_size", "3"),
        "pipeline_para_size",
    ),
    "idle": (
        parameter("model_type", ""),
        parameter("session_idle_timeout_s", "86401"),
        r"session_idle_timeout_s is 86401.0; allowed is \[0, 86400\]",
    ),
    "model_type": (parameter("model_type", ""), parameter("model_type", "rnn"), "rnn.*llama"),
    "kind": ("KIND_CPU", "KIND_MODEL", "instance_group kind is KIND_MODEL; only KIND_CPU is allowed"),
    "unknown": ('"runtime_top_k"', '"top_k"', "declares top_k; allowed are input_ids"),
    "kind_of_type": (
        '"temperature" data_type: TYPE_FP32',
        '"temperature" data_type: TYPE_BOOL',
        "temperature as TYPE_BOOL; allowed are TYPE_FP16",
    ),
    "missing": (
        '  { name: "input_lengths" data_type: TYPE_UINT32 dims: [ 1 ] },\n',
        "",
        "does not declare the inputs input_lengths",
    ),
    "output": ('"cum_log_probs"', '"sum_log_probs"', "declares sum_log_probs; allowed are output_ids"),
}


def load_error(client: grpcclient.InferenceServerClient) -> str:
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("fastertransformer")
    return str(caught.value.message())


@pytest.mark.parametrize("case", BROKEN_CONFIGS)
def test_broken_config(
    explicit_server: TritonServer,
    client: grpcclient.InferenceServerClient,
    models: Path,
    llama: Path,
    case: str,
) -> None:
    old, new, message = BROKEN_CONFIGS[case]
    write_model(models, llama, "fastertransformer")
    config = models / "fastertransformer" / "config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    error = load_error(client)
    assert re.search(message, error), error
    assert "ModelLoadError" in error
    assert left(explicit_server) == []


@pytest.mark.parametrize("case", ["missing", "truncated", "other architecture", "nothing"])
def test_broken_checkpoint(
    explicit_server: TritonServer,
    client: grpcclient.InferenceServerClient,
    models: Path,
    llama: Path,
    gpt2: Path,
    tmp_path: Path,
    case: str,
) -> None:
    copy = shutil.copytree(llama, tmp_path / "copy")
    weights = copy / "model.safetensors"
    messages = {
        "missing": "safetensors",
        "truncated": "model.safetensors",
        "other architecture": "weight",
        "nothing": "nowhere",
    }
    if case == "missing":
        weights.unlink()
    elif case == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif case == "other architecture":
        shutil.copy(gpt2 / "model.safetensors", weights)
    write_model(models, tmp_path / "nowhere" if case == "nothing" else copy, "fastertransformer")
    error = load_error(client)
    assert messages[case] in error
    assert "ModelLoadError" in error
    assert left(explicit_server) == []


def test_broken_model_leaves_others_alone(
    client: grpcclient.InferenceServerClient, explicit_server: TritonServer, models: Path, llama: Path
) -> None:
    write_model(models, llama, "text")
    client.load_model("text")
    write_model(models, llama, "fastertransformer", tensor_para_size="3")
    load_error(client)
    status, _ = ct.post(f"{explicit_server.http}/v2/models/text/generate", {"text_input": "a"})
    assert status == 200
    unload(client, "text")


def test_a_checkpoint_that_was_replaced_is_served_by_who_is_loaded_later(
    client: grpcclient.InferenceServerClient,
    explicit_server: TritonServer,
    models: Path,
    llama: Path,
    gpt2: Path,
    tmp_path: Path,
) -> None:
    """A model that is loaded keeps what it has, until it is loaded again."""

    def answer(model: str) -> list[int]:
        outputs = ct.grpc_infer(explicit_server.grpc, model, ct.core_inputs([[11, 12]], 8))
        return outputs["output_ids"][0, 0].tolist()

    copy = shutil.copytree(llama, tmp_path / "copy")
    for name in ("early", "late"):
        write_model(models, copy, "fastertransformer", name)
    client.load_model("early")
    old = answer("early")
    shutil.copytree(gpt2, copy, dirs_exist_ok=True)
    client.load_model("late")
    new = answer("late")
    assert new != old == answer("early")
    assert len(explicit_server.ranks()) == 2
    (models / "early" / "1" / "again").touch()  # what is the same for the server it does not load again
    client.load_model("early")
    assert answer("early") == new
    wait_for(lambda: len(explicit_server.ranks()) == 1, 60, "the engine of the old files is gone")
    for name in ("early", "late"):
        unload(client, name)
    assert left(explicit_server) == []


def test_a_model_leaves_after_streams_that_were_read_to_their_end(
    client: grpcclient.InferenceServerClient, explicit_server: TritonServer, models: Path, llama: Path
) -> None:
    """With a cancellation behind every end, the server kept one of some hundred streams, and the model."""
    write_model(models, llama, "fastertransformer", "streaming", decoupled=True)
    client.load_model("streaming")
    for _ in range(300):
        *_, last = tensor_client.stream(explicit_server.grpc, "streaming", ct.core_inputs([[11, 12]], 2))
        assert last["sequence_length"].tolist() == [[2]]
    unload(client, "streaming")
    assert left(explicit_server) == []
