# SPDX-License-Identifier: BSD-3-Clause
"""A real chat model from a GGUF file, served and asked by the command: transformers is the oracle."""

from collections.abc import Iterator

import client_tools as ct
import pytest
import smollm2
import torch
from commands import SMALL_CACHE, Serving, run, serving, wait_until_gone
from transformers import AutoTokenizer, PreTrainedTokenizerBase

QUESTIONS = ["What is the capital of France?", "Write one sentence about the sea.", "Was sind Primzahlen?"]
TEXTS = ["The capital of France is", "def fibonacci(n):\n"]
NEW = 48


@pytest.fixture(scope="module")
def server(cache: dict[str, str]) -> Iterator[Serving]:
    with serving(smollm2.gguf_file(), "--parameter", SMALL_CACHE, **cache) as running:
        yield running
        everything = running.descendants()
        assert running.stop() == 0
        assert wait_until_gone(everything) == []
        assert running.left() == []


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    path = smollm2.gguf_file()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [*(chat(tokenizer, question) for question in QUESTIONS), *TEXTS]


@pytest.fixture(scope="module")
def answers(server: Serving, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    """Greedy tokens. All five in one request: rows of different lengths, and of different ends."""
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs(ids, NEW))
    counts = outputs["sequence_length"][:, 0].tolist()
    rows = outputs["output_ids"][:, 0].tolist()
    return [row[len(p) : len(p) + n] for row, p, n in zip(rows, ids, counts, strict=True)]


def chat(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@torch.inference_mode()
def test_greedy_tokens_equal_transformers(tokenizer, prompts, answers) -> None:
    """After every token transformers would have gone on with the one that came; a row ends at the end id."""
    model = smollm2.reference()
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        logits = model(torch.tensor([ids + answer])).logits[0]
        assert logits[len(ids) - 1 : -1].argmax(-1).tolist() == answer
        assert model.config.eos_token_id not in answer[:-1]
        assert len(answer) == NEW or answer[-1] == model.config.eos_token_id
    assert min(map(len, answers)) < NEW == max(map(len, answers)), "the prompts should show both ends"


def test_text_is_that_of_the_tokens(server, tokenizer, prompts, answers) -> None:
    for prompt, answer in zip(prompts, answers, strict=True):
        wanted = tokenizer.decode(answer, skip_special_tokens=True)
        body = {"text_input": prompt, "max_tokens": NEW}
        status, text = ct.post(f"{server.http}/v2/models/text/generate", body)
        assert status == 200
        assert ct.json.loads(text)["text_output"] == wanted


def test_request_prints_the_answer(server, tokenizer, answers) -> None:
    wanted = tokenizer.decode(answers[0], skip_special_tokens=True)
    done = run("request", "--chat", QUESTIONS[0], "--max-tokens", NEW, "--url", server.grpc)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == wanted
    assert f"{len(answers[0])} tokens, the first after" in done.stderr


def test_request_options(server, tokenizer, answers) -> None:
    whole = tokenizer.decode(answers[3], skip_special_tokens=True)
    stop = whole[10:14]
    options = ["--max-tokens", NEW, "--url", server.grpc]
    done = run("request", TEXTS[0], "--stop", stop, *options)
    assert done.stdout.rstrip("\n") == whole[: whole.index(stop)].rstrip("\n")
    drawn = [run("request", TEXTS[0], "--temperature", t, "--top-p", 0.9, *options) for t in (1.5, 1e-3)]
    assert drawn[0].stdout != drawn[1].stdout
    assert drawn[1].stdout.rstrip("\n") == whole.rstrip("\n")


def test_request_that_fails(server, llama) -> None:
    for arguments, message in (
        (["--model", "nothing", "--url", server.grpc], "nothing"),
        (["--temperature", "-1", "--url", server.grpc], "temperature is -1.0; allowed"),
        (["--url", "127.0.0.1:9"], "127.0.0.1:9"),
        (["--chat", "--tokenizer", llama, "--url", server.grpc], "has no chat template"),
    ):
        done = run("request", "Hello", *arguments)
        assert done.returncode == 1, done.stdout
        assert message in done.stderr
        assert "Traceback" not in done.stderr
