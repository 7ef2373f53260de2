# SPDX-License-Identifier: BSD-3-Clause
"""Instances share engines by GPU group, and models of different T and P live side by side."""

from collections.abc import Iterator
from pathlib import Path

import client_tools as ct
import pytest
import tritonclient.grpc as grpcclient
from explicit import explicit_server, left, unload
from repositories import write_model
from tiny_models import LONG
from triton_process import TritonServer, environment_of, memory_of, wait_for

from fastertransformer.server.placement import visible_gpus

MESHES = {"one": (1, 1), "tensor": (2, 1), "pipeline": (1, 2)}
LARGEST_STUB = 64 << 20
"""Without torch; an engine of the same model takes three times as much."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with explicit_server(tmp_path_factory.mktemp("instances")) as running:
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(server.grpc) as connected:
        yield connected


def answer(server: TritonServer, model: str) -> list[int]:
    outputs = ct.grpc_infer(server.grpc, model, ct.core_inputs([[11, 12, 13]], 12))
    return outputs["output_ids"][0, 0].tolist()


def test_instances_of_a_group_add_no_engine_and_no_weights(
    server: TritonServer, client: grpcclient.InferenceServerClient, llama: Path
) -> None:
    engines = []
    for count in (1, 2, 4):
        write_model(server.folder / "models", llama, "fastertransformer", instances=count)
        client.load_model("fastertransformer")
        answer(server, "fastertransformer")
        assert len(server.stubs()) == count
        assert len(server.ranks()) == len(server.sockets()) == 1
        assert all(memory_of([stub]) < LARGEST_STUB for stub in server.stubs())
        engines.append(memory_of(server.ranks()))
        unload(client, "fastertransformer")
        assert left(server) == []
    assert max(engines) < 1.3 * min(engines)
    assert min(engines) > 2 * LARGEST_STUB


def test_models_of_different_meshes_come_and_go_in_any_order(
    server: TritonServer, client: grpcclient.InferenceServerClient, llama: Path
) -> None:
    for name, (tp, pp) in MESHES.items():
        sizes = {"tensor_para_size": str(tp), "pipeline_para_size": str(pp)}
        write_model(server.folder / "models", llama, "fastertransformer", name, **sizes)
    loaded: list[str] = []
    expected: list[int] = []
    for step in ("+tensor", "+one", "+pipeline", "-one", "+tensor", "-tensor", "+one", "-pipeline", "-one"):
        name = step[1:]
        if step[0] == "+":
            client.load_model(name)  # of one that is loaded: nothing happens, its files are the same
            loaded += [name] if name not in loaded else []
        else:
            unload(client, name)
            loaded.remove(name)
        sizes = [MESHES[model] for model in loaded]
        assert len(server.ranks()) == sum(tp * pp for tp, pp in sizes), step
        for model in loaded:
            expected = expected or answer(server, model)
            assert answer(server, model) == expected, (step, model)
    assert left(server) == []


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.gpu)], ids=["cpu", "gpus"])
def test_instance_i_computes_on_group_i_modulo_the_number_of_groups(
    real: bool, tmp_path: Path, llama: Path
) -> None:
    """The rule needs no GPU: where CUDA knows none of these devices, their engines compute on the CPU."""
    devices = visible_gpus() if real else ("77", "78")
    tp_size = 2 if real and len(devices) % 2 == 0 else 1
    groups = [",".join(devices[i : i + tp_size]) for i in range(0, len(devices), tp_size)]
    instances = 2 * len(groups)
    with explicit_server(tmp_path, "env", f"CUDA_VISIBLE_DEVICES={','.join(devices)}") as server:
        models = tmp_path / "models"
        parallel = {"tensor_para_size": str(tp_size)}
        write_model(models, llama, "fastertransformer", instances=instances, decoupled=True, **parallel)
        with grpcclient.InferenceServerClient(server.grpc) as client:
            client.load_model("fastertransformer")
        of_ranks = [environment_of(rank)["CUDA_VISIBLE_DEVICES"] for rank in server.ranks()]
        assert sorted(of_ranks) == sorted(groups * tp_size)
        users = [len(path.read_text().split()) for path in server.temporary.glob("*/*/users")]
        assert users == [2] * len(groups)
        with ct.open_stream(server.grpc) as stream:
            for i in range(2 * instances):
                inputs = ct.core_inputs([[i + 3]], LONG, min_length=LONG)
                stream.send("fastertransformer", inputs)
            wait_for(lambda: all(s.num_running for s in server.observe_all("llama")), 60, "all compute")
    assert left(server) == []
