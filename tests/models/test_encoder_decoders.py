# SPDX-License-Identifier: BSD-3-Clause
"""Encoder-decoders against transformers: logits of every family, whole and in chunks, and greedy tokens."""

import pytest
import torch
from driver import load_model
from encoder_decoder_driver import EncoderDecoderDriver
from tiny_encoder_decoders import CASES, make

TOLERANCE = 1e-4
HALF_TOLERANCES = {"bf16": 0.05, "fp16": 0.01}
SOURCE = [(7 * i + 3) % 90 + 2 for i in range(57)]


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """(transformers model, checkpoint folder)"""
    folder = tmp_path_factory.mktemp(request.param)
    return make(request.param, folder), folder


def expected_logits(reference: torch.nn.Module, target: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return reference(input_ids=torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([target])).logits[0]


@pytest.mark.parametrize("chunk", [60, 7, 1])
def test_logits_equal_transformers(pair, chunk):
    reference, folder = pair
    target = [2, *(5 * i % 80 + 3 for i in range(59))]
    driver = EncoderDecoderDriver(load_model(folder))
    driver.encode(SOURCE, before=[9, 30, 4])
    logits = driver.chunked_logits(target, chunk)
    assert (logits - expected_logits(reference, target)).abs().max() < TOLERANCE


def test_logits_of_some_tokens_behind_a_chunk_of_which_none_is_wanted(pair):
    reference, folder = pair
    target = [2, *(5 * i % 80 + 3 for i in range(29))]
    driver, kept = EncoderDecoderDriver(load_model(folder)), [19, 0, 12]
    driver.encode(SOURCE)
    assert [len(part) for part in driver.left(target[:10], [])] == [0, 0]
    logits = driver.logits(target[10:], kept)
    assert (logits - expected_logits(reference, target)[10:][kept]).abs().max() < TOLERANCE


def test_64_greedy_tokens_equal_transformers(pair):
    reference, folder = pair
    start = reference.config.decoder_start_token_id
    expected = reference.generate(
        torch.tensor([SOURCE]),
        max_new_tokens=64,
        min_new_tokens=64,
        do_sample=False,
        num_beams=1,
        eos_token_id=None,
        pad_token_id=1,
        use_cache=False,  # whose length is wrong where the stacks have different ones
    )[0].tolist()
    driver, tokens = EncoderDecoderDriver(load_model(folder)), [start]
    driver.encode(SOURCE)
    for _ in range(64):
        tokens.append(int(driver.logits(tokens[-1:])[-1].argmax()))
    assert tokens == expected


@pytest.mark.parametrize("dtype", HALF_TOLERANCES)
def test_half_precision_stays_close(pair, dtype):
    reference, folder = pair
    target = list(range(3, 40))
    expected = expected_logits(reference, target)
    driver = EncoderDecoderDriver(load_model(folder, data_type=dtype))
    driver.encode(SOURCE)
    logits = driver.logits(target)
    assert logits.dtype is torch.float32
    assert (logits - expected).norm() < HALF_TOLERANCES[dtype] * expected.norm()


@pytest.mark.parametrize("name", ["t5", "t5-gated", "umt5"])
def test_float16_holds_a_stream_beyond_its_range(name, tmp_path):
    """As that of large T5 checkpoints."""
    reference = make(name, tmp_path)
    with torch.no_grad():
        for parameter, weight in reference.named_parameters():
            if ".wo." in parameter:
                weight.mul_(1e5)
    reference.save_pretrained(tmp_path)
    target = list(range(3, 40))
    expected = expected_logits(reference, target)
    streams = reference.encoder(torch.tensor([SOURCE]), output_hidden_states=True).hidden_states
    assert streams[1].abs().max() > torch.finfo(torch.float16).max
    driver = EncoderDecoderDriver(load_model(tmp_path, data_type="fp16"))
    driver.encode(SOURCE)
    logits = driver.logits(target)
    assert (logits - expected).norm() < HALF_TOLERANCES["fp16"] * expected.norm()
