# SPDX-License-Identifier: BSD-3-Clause
"""The contract of T5, BART and M2M, and text, on a real server with an encoder-decoder."""

import json
from collections.abc import Iterator
from pathlib import Path

import client_tools as ct
import numpy as np
import pytest
import tiny_encoder_decoders
import tiny_models
import torch
from repositories import write_model
from tokenizers import Tokenizer
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from triton_process import TritonServer
from tritonclient.utils import InferenceServerException

EOS_ID = 2
INPUTS = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31], [41, 42, 43, 44]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mbart")
    tiny_encoder_decoders.make("mbart", path, vocab_size=tiny_models.VOCAB_SIZE)
    tiny_models.write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[TritonServer]:
    root = tmp_path_factory.mktemp("triton")
    write_model(root / "models", folder, "fastertransformer", "streaming", "encoder_decoder", decoupled=True)
    write_model(root / "models", folder, "fastertransformer", template="encoder_decoder")
    write_model(root / "models", folder, "text", template="encoder_decoder")
    running = TritonServer(root, root / "models")
    yield running
    running.stop()


def greedy(model: PreTrainedModel, tokens: list[int], new: int, start: tuple[int, ...] = (2,)) -> list[int]:
    """What transformers generates behind the start tokens."""
    ids = model.generate(
        torch.tensor([tokens]),
        decoder_input_ids=torch.tensor([start]),
        max_new_tokens=new,
        do_sample=False,
        num_beams=1,
    )
    return ids[0, len(start) :].tolist()


def infer(server: TritonServer, **more: object) -> ct.Arrays:
    return ct.grpc_infer(server.grpc, "fastertransformer", ct.encoder_decoder_inputs(INPUTS, **more))


def test_each_row_equals_transformers(server: TritonServer, model: PreTrainedModel) -> None:
    new = [12, 3, 7, 5]
    outputs = infer(server, new=new)
    assert set(outputs) == {"output_ids", "sequence_length", "input_sequence_lengths"}
    assert all(array.dtype == np.int32 for array in outputs.values())
    assert outputs["input_sequence_lengths"].tolist() == [[3], [7], [1], [4]]
    for row, length, tokens, most in zip(
        outputs["output_ids"][:, 0].tolist(), outputs["sequence_length"][:, 0], INPUTS, new, strict=True
    ):
        expected = greedy(model, tokens, most)
        assert row == expected + [EOS_ID] * (12 - len(expected))
        assert length == len(expected)


def test_forced_token_and_log_probs(server: TritonServer, model: PreTrainedModel) -> None:
    outputs = infer(server, new=6, forced_bos_id=[17, -1, 18, 19], is_return_log_probs=True)
    rows = outputs["output_ids"][:, 0].tolist()
    for row, tokens, forced in zip(rows, INPUTS, (17, None, 18, 19), strict=True):
        expected = [forced, *greedy(model, tokens, 5, (2, forced))] if forced else greedy(model, tokens, 6)
        assert row[: len(expected)] == expected
    logprobs = outputs["output_log_probs"][:, 0]
    assert (logprobs[:, 0] == 0).tolist() == [True, False, True, True]
    np.testing.assert_allclose(outputs["cum_log_probs"][:, 0], logprobs.sum(-1), rtol=1e-6)


def test_beams_equal_transformers(server: TritonServer, model: PreTrainedModel) -> None:
    outputs = infer(server, new=7, beam_width=3, len_penalty=1.0)
    assert outputs["output_ids"].shape == (4, 3, 7)
    assert outputs["input_sequence_lengths"].tolist() == [[3] * 3, [7] * 3, [1] * 3, [4] * 3]
    for lines, tokens in zip(outputs["output_ids"].tolist(), INPUTS, strict=True):
        rows = model.generate(
            torch.tensor([tokens]),
            num_beams=3,
            num_return_sequences=3,
            max_new_tokens=7,
            length_penalty=1.0,
            do_sample=False,
            pad_token_id=EOS_ID,
        )
        assert lines == [row[1:] + [EOS_ID] * (8 - len(row)) for row in rows.tolist()]


def test_samples_are_those_of_neighbouring_seeds(server: TritonServer) -> None:
    sampling = {"runtime_top_k": 50, "temperature": 1.5}
    seeds = np.array([[3], [7], [11], [2**64 - 1]], np.uint64)
    found = infer(server, new=6, num_return_sequences=2, random_seed=seeds, **sampling)
    assert found["output_ids"].shape == (4, 2, 6)
    assert found["input_sequence_lengths"].tolist() == [[3] * 2, [7] * 2, [1] * 2, [4] * 2]
    for sample in range(2):
        alone = infer(server, new=6, random_seed=seeds + np.uint64(sample), **sampling)
        assert (found["output_ids"][:, sample] == alone["output_ids"][:, 0]).all()


def test_soft_prompts_are_in_front_of_the_encoders_input(
    server: TritonServer, model: PreTrainedModel
) -> None:
    rows = np.random.default_rng(0).standard_normal((4, 5, 48)).astype(np.float16)
    lengths = [5, 0, 2, 3]
    prompts = {"request_prompt_embedding": rows, "request_prompt_lengths": lengths}
    outputs = infer(server, new=8, **prompts)
    assert outputs["input_sequence_lengths"].tolist() == [[3], [7], [1], [4]]
    for row, tokens, prompt, length in zip(outputs["output_ids"], INPUTS, rows, lengths, strict=True):
        soft = torch.from_numpy(prompt[:length].astype(np.float32))
        with torch.no_grad():
            embedded = torch.cat([soft, model.model.encoder.embed_tokens(torch.tensor(tokens))])[None]
            expected = model.generate(
                inputs_embeds=embedded,
                decoder_input_ids=torch.tensor([[2]]),
                max_new_tokens=8,
                do_sample=False,
                num_beams=1,
            )[0, 1:].tolist()
        assert row[0].tolist() == expected + [EOS_ID] * (8 - len(expected))


def test_streams(server: TritonServer) -> None:
    arrays = ct.encoder_decoder_inputs(INPUTS[:1], 6, end_id=299)
    responses = ct.stream_infer(server.grpc, "streaming", arrays)
    lengths = [int(response["sequence_length"][0, 0]) for response in responses]
    assert lengths == sorted(lengths)
    assert lengths[-1] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 9}, r"sequence_length is 9; allowed is \[0, 7\]"),
        ({"sequence_length": 0}, "input_ids is empty"),
        ({"forced_bos_id": 300}, "forced_bos_id: token id 300 at position 0"),
        ({"start_id": 300}, "start_id: token id 300 at position 0"),
        ({"max_output_len": 129}, "max_output_len is 129"),
        ({"ia3_tasks": 0}, "ia3_tasks .* the model has no IA3 adapters"),
        ({"num_return_sequences": 257}, r"num_return_sequences is 257; allowed is \[1, 256\]"),
        (
            {"prompt_learning_task_name_ids": 0},
            "prompt_learning_task_name_ids is 0, but the checkpoint has no",
        ),
        ({"request_prompt_lengths": 2}, "request_prompt_lengths was sent without request_prompt_embedding"),
    ],
)
def test_bad_input_is_named(server: TritonServer, changes: dict[str, int], message: str) -> None:
    given = ct.encoder_decoder_inputs(INPUTS, 5, **changes)
    changed = {name: ct.per_row(value, len(INPUTS), given[name].dtype) for name, value in changes.items()}
    with pytest.raises(InferenceServerException, match=message):
        ct.grpc_infer(server.grpc, "fastertransformer", given | changed)


@pytest.mark.parametrize(
    ("shape", "length", "message"),
    [
        ((4, 3, 47), 3, "request_prompt_embedding has rows of 47 values; allowed is 48"),
        ((4, 3, 48), 4, r"request_prompt_lengths is 4; allowed is \[0, 3\]"),
        ((4, 128, 48), 128, "input_ids has 131 tokens; .* at most 128"),
    ],
)
def test_bad_soft_prompts_are_named(
    server: TritonServer, shape: tuple[int, ...], length: int, message: str
) -> None:
    rows = np.zeros(shape, np.float16)
    with pytest.raises(InferenceServerException, match=message):
        infer(server, new=5, request_prompt_embedding=rows, request_prompt_lengths=length)


def test_an_input_that_is_longer_than_the_positions(server: TritonServer) -> None:
    arrays = ct.encoder_decoder_inputs([[5] * 129], 5)
    with pytest.raises(InferenceServerException, match=r"input_ids has 129 tokens; .* at most 128"):
        ct.grpc_infer(server.grpc, "fastertransformer", arrays)


def test_text(server: TritonServer, model: PreTrainedModel, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = tokenizer.decode(greedy(model, tokenizer.encode("Hello fox!").ids, 9))
    body = {"text_input": "Hello fox!", "max_tokens": 9, "return_num_input_tokens": True}
    status, text = ct.post(f"{server.http}/v2/models/text/generate", body)
    answer = json.loads(text)
    assert status == 200
    assert answer["text_output"] == expected
    assert answer["num_input_tokens"] == len(tokenizer.encode("Hello fox!").ids)
