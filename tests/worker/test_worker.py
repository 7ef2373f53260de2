# SPDX-License-Identifier: BSD-3-Clause
"""The engine process as its clients meet it: what it refuses, how it leaves, what a load failure says."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from engine_runs import BLOCK_SIZE, VOCAB_SIZE, ask, launched_engine, running_engine
from transformers import LlamaConfig, LlamaForCausalLM

from fastertransformer.errors import ModelLoadError
from fastertransformer.messages import FinishReason, Request, SamplingParams, token_ids


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("llama"), 128)


def write_checkpoint(folder: Path, max_positions: int) -> Path:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_positions,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_bad_requests_are_refused_by_name_and_good_ones_go_on(checkpoint):
    cases = {
        "prompt: token id 211 at position 1 is not in the vocabulary [0, 211)": ((3, 211), {}),
        "prompt: token id 9223372036854775807 at position 1": ((3, 2**63 - 1), {}),
        "prompt has 100 tokens and max_tokens is 29: together 129": ((1,) * 100, {"max_tokens": 29}),
        "prompt is empty": ((), {}),
        "temperature is -1.0; allowed is a finite number >= 0": ((1,), {"temperature": -1.0}),
        "top_p is nan; allowed is a number in [0, 1]": ((1,), {"top_p": float("nan")}),
        "repetition_penalty is 0.0; allowed is a number in [1e-20, 1e+20]": (
            (1,),
            {"repetition_penalty": 0.0},
        ),
        "stop_words: a word without tokens": ((1,), {"stop_words": ((),)}),
        "bad_words: token id 999 at position 0": ((1,), {"bad_words": ((999,),)}),
        "max_tokens is 0; allowed is an integer >= 1": ((1,), {"max_tokens": 0}),
    }
    requests = [
        Request(number, token_ids(prompt), SamplingParams(**{"max_tokens": 4, **sampling}))
        for number, (prompt, sampling) in enumerate(cases.values())
    ]
    good = Request(99, token_ids((1, 2)), SamplingParams(max_tokens=4, end_ids=()))
    with running_engine(checkpoint) as client:
        answers, _ = ask(client, [*requests, good])
    for number, text in enumerate(cases):
        assert answers[number].last.finish_reason is FinishReason.ERROR
        assert text in answers[number].last.error
    assert len(answers[99].tokens) == 4


def test_an_end_that_the_vocabulary_lacks_never_comes(checkpoint, tmp_path):
    """It is not looked up either, where short rows must not end."""
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    for name in ("config.json", "generation_config.json"):
        values = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(values | {"eos_token_id": [VOCAB_SIZE + 9, -1, 5]}))
    request = Request(0, token_ids((1, 2)), SamplingParams(max_tokens=6, min_length=6))
    with running_engine(copy) as client:
        assert client.info.end_ids == (5,)
        answers, _ = ask(client, [request])
    assert len(answers[0].tokens) == 6


def test_prompt_and_output_must_fit_the_cache_where_that_is_smaller_than_the_model(checkpoint):
    fits, does_not = (
        Request(number, token_ids((1,) * 40), SamplingParams(max_tokens=new, end_ids=()))
        for number, new in enumerate((24, 25))
    )
    with running_engine(checkpoint, max_tokens=64) as client:
        answers, _ = ask(client, [fits, does_not])
    assert len(answers[0].tokens) == 24
    assert "together 65, but model and cache hold at most 64" in answers[1].last.error


def test_abort_gives_the_blocks_back(tmp_path):
    long = 1 << 15  # tokens take many seconds on any machine
    with running_engine(write_checkpoint(tmp_path, long), max_tokens=long) as client:
        client.submit([Request(0, token_ids((1,)), SamplingParams(max_tokens=long - 1, end_ids=()))])
        outputs = client.outputs()
        next(outputs)
        client.abort([0])
        last = next(message for message in outputs if message.outputs[-1].finish_reason)
        assert last.outputs[-1].finish_reason is FinishReason.ABORTED
        _, stats = ask(client, [Request(1, token_ids((1,)), SamplingParams(max_tokens=1))])
        assert stats.num_free_blocks == stats.num_total_blocks == long // BLOCK_SIZE


def test_engine_leaves_with_its_last_client(checkpoint):
    with launched_engine(checkpoint) as client:
        pid = client.pid
        assert Path(f"/proc/{pid}").exists()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"tp": 3}, "num_attention_heads 4 is not divisible by tensor_para_size 3"),
        ({"pp": 3}, "num_hidden_layers 2 is less than pipeline_para_size 3"),
        ({"max_model_len": 4000}, "max_model_len is 4000; the model's positions end at 128"),
        ({"max_model_len": 10**10}, "max_model_len is 10000000000; the model's positions end at 128"),
        ({"max_model_len": 100, "max_tokens": 64}, "the KV cache holds 64 tokens"),
        ({"model_type": "gpt2"}, "parameter model_type is 'gpt2', but the checkpoint is a 'llama'"),
        ({"device": "cuda"}, "device is cuda, but"),
        ({"disable_kernels": ("nonsense",)}, "parameter disable_kernels names 'nonsense'"),
    ],
)
def test_what_does_not_fit_is_refused_at_load_with_the_numbers(checkpoint, config, text):
    if config.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ModelLoadError) as error, launched_engine(checkpoint, **config):
        pass
    assert text in str(error.value)
