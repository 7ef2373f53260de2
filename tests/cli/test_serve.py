# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer serve`: what its options do to the server, and that nothing is left when it ends."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import client_tools as ct
import numpy as np
import pytest
from commands import SMALL_CACHE, Serving, run, serving, wait_until_gone
from tokenizers import Tokenizer
from triton_process import fetch, free_ports

from fastertransformer.server import processes


def model_config(server: Serving, model: str) -> Any:
    return json.loads(fetch(f"http://{server.http}/v2/models/{model}/config"))


def ranks(server: Serving) -> list[int]:
    lines = {pid: processes.command_line(pid) for pid in server.descendants()}
    return [pid for pid, line in lines.items() if line.split()[1:3] == ["-m", "fastertransformer.worker"]]


def test_options_of_a_hugging_face_folder(llama: Path) -> None:
    options = ["--tensor-para-size=2", "--pipeline-para-size=2", "--instances=2", "--data-type=bf16"]
    with serving(llama, *options, "--decoupled", "--parameter", SMALL_CACHE) as server:
        config = model_config(server, "fastertransformer")
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        assert parameters["tensor_para_size"] == parameters["pipeline_para_size"] == "2"
        assert parameters["data_type"] == "bf16"
        assert parameters["max_tokens_in_paged_kv_cache"] == "8192"
        assert config["instance_group"][0]["count"] == 2
        assert config["model_transaction_policy"]["decoupled"]
        assert len(ranks(server)) == 4
        for model in ("fastertransformer", "text", "ensemble", "preprocessing", "postprocessing"):
            assert model in server.printed
        responses = ct.stream_infer(
            server.grpc, "fastertransformer", ct.core_inputs([[11, 12]], 300, min_length=300)
        )
        assert len(responses) > 5
        assert responses[-1]["sequence_length"].tolist() == [[300]]
        everything = server.descendants()
        assert server.stop() == 0
        assert wait_until_gone(everything) == []
        assert server.left() == []


def test_a_folder_without_tokenizer_serves_tokens_from_a_given_repository(
    llama: Path, tmp_path: Path
) -> None:
    """Also shows that `repository` writes what `serve` serves, and that `--model-repository` takes it."""
    checkpoint = shutil.copytree(llama, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("token*"))
    repository = tmp_path / "models"
    with serving(checkpoint, "--parameter", SMALL_CACHE) as server:
        assert "no tokenizer.json: only token ids are served" in server.printed
        (written,) = server.temporary.glob("models-*")
        assert [folder.name for folder in written.iterdir()] == ["fastertransformer"]
        done = run("repository", checkpoint, repository, "--parameter", SMALL_CACHE)
        assert done.returncode == 0, done.stderr
        own, served = (folder / "fastertransformer/config.pbtxt" for folder in (repository, written))
        assert own.read_text() == served.read_text()
        first = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs([[11, 12]], 8))
    with serving("--model-repository", repository) as server:
        again = ct.http_infer(server.http, "fastertransformer", ct.core_inputs([[11, 12]], 8))
        assert again["output_ids"].tolist() == first["output_ids"].tolist()


def test_conversations(llama: Path) -> None:
    with serving(llama, "--interactive", "--parameter", SMALL_CACHE) as server:
        first, second = (
            {name: array[np.newaxis] for name, array in turn.items()}
            for turn in (ct.core_inputs([[11, 12]], 6), ct.core_inputs([[13]], 5))
        )
        options = {"sequence_id": "talk"}
        ct.grpc_infer(server.grpc, "fastertransformer", first, sequence_start=True, **options)
        outputs = ct.grpc_infer(server.grpc, "fastertransformer", second, sequence_end=True, **options)
        assert outputs["output_ids"].shape == (1, 1, 1, 2 + 6 + 1 + 5)
        tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
        said: list[list[int]] = [[], []]
        for number, texts in enumerate((["Hello", "The quick brown fox"], ["Water", "!"], ["Grüße", "a"])):
            flags = {"sequence_start": number == 0, "sequence_end": number == 2}
            answers = ct.grpc_infer(server.grpc, "ensemble", turn_of_texts(texts), sequence_id=7, **flags)
            said = [
                [*row, *tokenizer.encode(text, add_special_tokens=number == 0).ids]
                for row, text in zip(said, texts, strict=True)
            ]
            rows = one_answer(server, said)
            assert [text.decode() for text in answers["OUTPUT_0"][0, :, 0]] == list(
                map(tokenizer.decode, rows)
            )
            assert answers["output_log_probs"].shape == (1, 2, 1, 6)
            said = rows


def turn_of_texts(texts: list[str]) -> ct.Arrays:
    return {
        "INPUT_0": np.array([[[text.encode()] for text in texts]], dtype=np.object_),
        "INPUT_1": np.full((1, len(texts), 1), 6, np.uint32),
        "is_return_log_probs": np.ones((1, len(texts), 1), np.bool_),
    }


def one_answer(server: Serving, prompts: list[list[int]]) -> list[list[int]]:
    """Prompts and answers, in a conversation of one turn."""
    arrays = {name: array[np.newaxis] for name, array in ct.core_inputs(prompts, 6).items()}
    flags = {"sequence_start": True, "sequence_end": True}
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", arrays, sequence_id=8, **flags)
    lengths = outputs["output_lengths"][0, :, 0]
    return [row[:n].tolist() for row, n in zip(outputs["output_ids"][0, :, 0], lengths, strict=True)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_loads(llama: Path, number: signal.Signals) -> None:
    with serving(llama, "--parameter", SMALL_CACHE, ready=False) as server:
        while not (everything := server.descendants()):
            assert server.process.poll() is None, server.printed
        assert server.stop(number) != 0
        assert wait_until_gone(everything) == []
        assert server.left() == []


def test_a_model_that_cannot_be_loaded(llama: Path, tmp_path: Path) -> None:
    with serving(llama, "--tensor-para-size", 3, "--parameter", SMALL_CACHE, ready=False) as server:
        assert server.process.wait(200) == 1
        reason = "num_attention_heads 4 is not divisible by tensor_para_size 3"
        assert server.printed == f"error: tritonserver ended with code 1:\n{reason}\n"
        assert server.left() == []
    done = run("serve", tmp_path / "nothing")
    assert done.returncode == 1
    assert "nothing" in done.stderr


def test_a_port_that_is_taken_is_told(llama: Path) -> None:
    with serving(llama, "--parameter", SMALL_CACHE) as server:
        grpc_port, metrics_port = free_ports(2)
        ports = ["--grpc-port", grpc_port, "--metrics-port", metrics_port]
        done = run("serve", llama, "--parameter", SMALL_CACHE, "--http-port", server.http_port, *ports)
        assert done.returncode == 1
        assert f"Socket '127.0.0.1:{server.http_port}' already in use" in done.stderr


def test_the_server_dies(llama: Path) -> None:
    with serving(llama, "--parameter", SMALL_CACHE) as server:
        everything = server.descendants()
        os.kill(everything[0], signal.SIGKILL)
        assert server.process.wait(30) == 1
        assert "tritonserver ended with code" in server.printed
        assert wait_until_gone(everything) == []


def test_parameters_that_cannot_be_are_told_before_anything_is_written(llama: Path, tmp_path: Path) -> None:
    done = run("repository", llama, tmp_path / "models", "--data-type", "fp12")
    assert done.returncode == 1
    assert "parameter data_type is 'fp12'; allowed are fp32, fp16, bf16, auto" in done.stderr
    assert not (tmp_path / "models").exists()
