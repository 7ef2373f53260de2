# SPDX-License-Identifier: BSD-3-Clause
"""The verbs that ask a running server: tokens, text, requests from files, last words."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import client_tools as ct
import numpy as np
import pytest
from commands import Serving, run, serving
from repositories import write_model
from tiny_models import VOCAB_SIZE

from fastertransformer.cli import identity_test, issue_request, lambada
from fastertransformer.errors import FasterTransformerError, InvalidRequest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Iterator[Serving]:
    models = tmp_path_factory.mktemp("models")
    for model in ("fastertransformer", "text", "preprocessing", "postprocessing", "ensemble"):
        write_model(models, llama, model)
    write_model(models, llama, "fastertransformer", "streaming", decoupled=True)
    with serving("--model-repository", models) as running:
        yield running


@pytest.mark.parametrize("options", [[], ["--protocol=http"], ["--decoupled", "--model=streaming"]])
def test_identity_test(server: Serving, tmp_path: Path, options: list[str]) -> None:
    url = server.http if "--protocol=http" in options else server.grpc
    sizes = ["--batch-size=3", "--input-len=5", "--output-len=7", "--num-runs=2", "--warm-up=1"]
    file = tmp_path / "ids"
    done = run("identity-test", f"--url={url}", *sizes, "--vocab-size=290", *options, f"--output-file={file}")
    assert done.returncode == 0, done.stderr
    assert "2 requests of 3 rows, 7 tokens each" in done.stdout
    assert "p99 ms" in done.stdout
    rows = np.loadtxt(file, int)
    assert rows.shape == (3, 5 + 7)
    assert rows[:, :5].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]]


def test_prompts() -> None:
    random = identity_test.prompts(4, 50, VOCAB_SIZE, seed=1)
    assert random.max() < VOCAB_SIZE
    assert (random == identity_test.prompts(4, 50, VOCAB_SIZE, seed=1)).all()
    assert (random != identity_test.prompts(4, 50, VOCAB_SIZE, seed=2)).any()
    assert identity_test.prompts(2, 4, 6, None).tolist() == [[1, 2, 3, 4], [5, 1, 2, 3]]


def test_other_tokens_are_an_error() -> None:
    answers = iter([[1], [1], [1], [2]])
    with pytest.raises(FasterTransformerError, match="request 3 was answered with other tokens"):
        identity_test.measure(lambda: {"output_ids": np.array(next(answers))}, 1, 3)


def test_end_to_end_test(server: Serving) -> None:
    done = run("end-to-end-test", f"--url={server.grpc}", "--output-len=6", "Hello world!", "日本 [x]")
    assert done.returncode == 0, done.stderr
    assert "Hello world!" in done.stdout
    assert "日本 [x]" in done.stdout
    done = run("end-to-end-test", f"--url={server.http}", "--protocol=http", "--stop-words=a,e", "--top-k=5")
    assert done.returncode == 0, done.stderr
    assert "Previous Chapter" in done.stdout


def sample(folder: Path, new: int = 8, **config: Any) -> Path:
    """In the shape of the old service's samples."""
    fields = [
        {"name": "input_ids", "data": [[11, 12, 13], [21, 22, 23]], "dtype": "uint32"},
        {"name": "input_lengths", "data": [[3], [3]], "dtype": "uint32"},
        {"name": "request_output_len", "data": [[new], [new]], "dtype": "uint32"},
        {"name": "min_length", "data": [[new + 1], [new + 1]], "dtype": "int32"},
        {"name": "is_return_log_probs", "data": [[True], [True]], "dtype": "bool"},
        {"name": "random_seed", "data": [[0], [0]], "dtype": "uint64"},
        {"name": "stop_words_list", "data": [[[0], [-1]], [[0], [-1]]], "dtype": "int32"},
    ]
    file = folder / "request.json"
    file.write_text(json.dumps(({"config": config} if config else {}) | {"request": fields}))
    return file


def test_request_from_a_file(server: Serving, tmp_path: Path) -> None:
    address = json.dumps({"config": {"url": server.http}})
    done = run("issue-request", sample(tmp_path), "--params", address)
    assert done.returncode == 0, done.stderr
    assert re.search(r"output_ids:\n\[\[\[ *11 +12 +13 ", done.stdout)
    assert re.search(r"sequence_length:\n\[\[8\]\n \[8\]\]", done.stdout)
    assert "output_log_probs:" in done.stdout


def test_requests_at_the_same_time(server: Serving, tmp_path: Path) -> None:
    file = sample(tmp_path, protocol="grpc", url=server.grpc)
    done = run("issue-request", file, "--mode=async", "--count=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("output_ids:") == 3


def test_streamed_responses_grow(server: Serving, tmp_path: Path) -> None:
    config = {"protocol": "grpc", "stream_api": True, "url": server.grpc, "model_name": "streaming"}
    file = sample(tmp_path, new=300, **config)
    done = run("issue-request", file, "--test")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("after ") > 1


def test_text_in_a_file(server: Serving, tmp_path: Path) -> None:
    """As sample_request_ensemble.json."""
    fields = [
        {"name": "INPUT_0", "data": [["Hello"], ["Water is"]], "dtype": "object"},
        {"name": "INPUT_1", "data": [[4], [4]], "dtype": "uint32"},
        {"name": "INPUT_2", "data": [["title, German"], [""]], "dtype": "object"},
    ]
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"config": {"model_name": "ensemble", "url": server.http}, "request": fields}))
    done = run("issue-request", file)
    assert done.returncode == 0, done.stderr
    assert "OUTPUT_0:\n[[b'Hello" in done.stdout


def test_errors_of_requests_from_files(server: Serving, tmp_path: Path) -> None:
    file = sample(tmp_path, url=server.http, model_name="nobody")
    done = run("issue-request", file)
    assert done.returncode == 1
    assert "nobody" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(InvalidRequest, match="is no request: TypeError: an object is expected, and int came"):
        issue_request.read(file, "5")
    with pytest.raises(InvalidRequest, match="is no request: KeyError: 'dtype'"):
        issue_request.read(file, '{"request": [{"name": "input_ids", "data": [1]}]}')
    with pytest.raises(InvalidRequest, match="is no request: ValueError: 'carrier pigeon'"):
        issue_request.read(file, '{"config": {"protocol": "carrier pigeon"}}')


def test_no_server() -> None:
    done = run("identity-test", "--url=127.0.0.1:1", "--protocol=http")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no answer")


def first_word(server: Serving, context: str) -> str | None:
    _, text = ct.post(f"{server.http}/v2/models/text/generate", {"text_input": context, "max_tokens": 6})
    found = re.search(r"[\w'-]+", json.loads(text)["text_output"])
    return found.group() if found else None


def test_last_words(server: Serving, tmp_path: Path) -> None:
    contexts = [f"{'so ' * count}the quick brown" for count in range(1, 30)]
    context, word = next((c, w) for c in contexts if (w := first_word(server, c)))
    file = tmp_path / "texts.jsonl"
    file.write_text(f"{json.dumps({'text': f'{context} {word}'})}\n{context} {word}\n\n{context} {word}zz.\n")
    done = run("lambada", file, f"--url={server.grpc}", "--batch-size=2")
    assert done.returncode == 0, done.stderr
    assert "last word accuracy: 66.67 % (2 of 3)" in done.stdout
    done = run("lambada", file, f"--url={server.grpc}", "--accuracy-threshold=70")
    assert done.returncode == 1
    assert "the accuracy 66.67 % is below 70 %" in done.stderr
    assert "(1 of 1)" in run("lambada", file, f"--url={server.grpc}", "--limit=1").stdout


def test_words_and_lines(tmp_path: Path) -> None:
    assert lambada.is_found("Paris.", " Paris, which")
    assert not lambada.is_found("Paris", " par")
    assert not lambada.is_found("...", " ...")
    file = tmp_path / "texts"
    file.write_text("two words\nalone\n")
    with pytest.raises(InvalidRequest, match="one is 'alone'"):
        lambada.read(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff two words", "texts is not UTF-8"),
        (b'{"words": "a b"}', "is not of the form .*: KeyError: 'text'"),
        (b"{two words", "is not of the form .*: JSONDecodeError"),
    ],
)
def test_lines_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "texts"
    file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=message):
        lambada.read(file)


def test_what_is_no_utf_8_is_the_servers_to_refuse(server: Serving) -> None:
    done = run("request", os.fsdecode(b"\xff"), f"--url={server.grpc}")
    assert done.returncode == 1
    assert "text_input is b'\\xff', which is not UTF-8" in done.stderr
    done = run("end-to-end-test", os.fsdecode(b"\xff"), f"--url={server.grpc}")
    assert done.returncode == 1
    assert "QUERY is b'\\xff', which is not UTF-8" in done.stderr


def test_a_file_that_cannot_be_written_is_named(server: Serving, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "ids"
    done = run(
        "identity-test", f"--url={server.grpc}", "--vocab-size=300", "-n1", "-w0", "--output-file", target
    )
    assert done.returncode == 1
    assert f"No such file or directory: '{target}'" in done.stderr
    assert "Traceback" not in done.stderr
