# SPDX-License-Identifier: BSD-3-Clause
"""Beam search on a real server: all beams in the old shapes, at once, after every step, and as text."""

from pathlib import Path

import client_tools as ct
import numpy as np
import pytest
import torch
from test_text_model import generate, generate_stream
from tiny_models import EOS_ID
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from triton_process import TritonServer
from tritonclient.utils import InferenceServerException

from fastertransformer.cli.request import ask

PROMPTS = [[11, 12, 13], [21, 22, 23, 24, 25]]
WIDTH, NEW = 4, 9


def beams(checkpoint: Path, prompt: list[int]) -> list[list[int]]:
    """What transformers generates; what is behind an end is its fill."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    rows = model.generate(
        torch.tensor([prompt]),
        num_beams=WIDTH,
        num_return_sequences=WIDTH,
        max_new_tokens=NEW,
        length_penalty=1.0,
        do_sample=False,
        pad_token_id=EOS_ID,
    )
    return rows[:, len(prompt) :].tolist()


@pytest.mark.parametrize("model", ["fastertransformer", "streaming"])
def test_all_beams_equal_transformers(server: TritonServer, llama: Path, model: str) -> None:
    arrays = ct.core_inputs(PROMPTS, NEW, beam_width=WIDTH, len_penalty=1.0, is_return_log_probs=True)
    responses = ct.stream_infer(server.grpc, model, arrays)
    last = responses[-1]
    assert last["output_ids"].shape == (2, WIDTH, 5 + NEW)
    assert last["output_log_probs"].shape == (2, WIDTH, NEW)
    assert last["cum_log_probs"].shape == last["sequence_length"].shape == (2, WIDTH)
    assert last["input_sequence_lengths"].tolist() == [[3] * WIDTH, [5] * WIDTH]
    np.testing.assert_allclose(last["output_log_probs"].sum(-1), last["cum_log_probs"], atol=1e-3)
    for row, prompt in enumerate(PROMPTS):
        for line, expected in zip(last["output_ids"][row].tolist(), beams(llama, prompt), strict=True):
            assert line == [*prompt, *expected] + [EOS_ID] * (5 + NEW - len(prompt) - len(expected))
    if model == "streaming":
        lengths = [int(response["sequence_length"].max()) for response in responses]
        assert lengths == sorted(lengths)
    else:
        assert len(responses) == 1


def test_beams_grow_in_a_stream(server: TritonServer) -> None:
    new = 300
    arrays = ct.core_inputs(PROMPTS, new, min_length=new, beam_width=WIDTH)
    responses = ct.stream_infer(server.grpc, "streaming", arrays)
    lengths = [int(response["sequence_length"].max()) for response in responses]
    assert lengths == sorted(lengths)
    assert lengths[-1] == new
    assert len(set(lengths)) > 2


def test_beams_as_text(
    server: TritonServer, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tokenizer.encode("Hello").ids
    arrays = ct.core_inputs([ids], NEW, beam_width=3, len_penalty=1.0)
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", arrays)
    expected = [
        tokenizer.decode([token for token in line[len(ids) : len(ids) + count] if token != EOS_ID])
        for line, count in zip(outputs["output_ids"][0].tolist(), outputs["sequence_length"][0], strict=True)
    ]
    body = {"text_input": "Hello", "max_tokens": NEW, "beam_width": 3, "length_penalty": 1.0}
    assert generate(server, **body)["text_output"] == expected
    assert [piece["text_output"] for piece in generate_stream(server, **body)] == [expected]
    ask(server.grpc, "text", body)
    printed = letters(capsys.readouterr().out)  # the console leaves control characters out
    assert printed.startswith("".join(map(letters, expected)))


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def test_what_can_never_fit_is_refused_with_the_numbers(server: TritonServer) -> None:
    arrays = ct.core_inputs([[11] * 100], 1900, beam_width=64)
    with pytest.raises(InferenceServerException, match="beam_width is 64: 64 beams of 1999 tokens need"):
        ct.grpc_infer(server.grpc, "fastertransformer", arrays)
