# SPDX-License-Identifier: BSD-3-Clause
"""Every family against transformers: a tiny random model, whole, in chunks and token by token."""

import pytest
import torch
from driver import Driver, load_model
from tiny_checkpoints import CASES, make

TOLERANCE = 1e-4
HALF_TOLERANCES = {"bf16": 0.05, "fp16": 0.01}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """(transformers model, checkpoint folder)"""
    folder = tmp_path_factory.mktemp(request.param)
    return make(request.param, folder), folder


@pytest.mark.parametrize("chunk", [120, 7, 1])
def test_logits_equal_transformers(pair, chunk):
    reference, folder = pair
    ids = torch.randint(0, 101, (1, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(ids).logits[0]
    logits = Driver(load_model(folder)).chunked_logits(ids[0].tolist(), chunk)
    assert (logits - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("kept", [[59], [3, 59, 0, 31], list(range(60))])
def test_logits_of_some_tokens_behind_a_chunk_of_which_none_is_wanted(pair, kept):
    reference, folder = pair
    ids = torch.randint(0, 101, (1, 100), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = reference(ids).logits[0, 40:]
    driver = Driver(load_model(folder))
    assert [len(part) for part in driver.left(ids[0, :40].tolist(), [])] == [0, 0]
    assert (driver.logits(ids[0, 40:].tolist(), kept) - expected[kept]).abs().max() < TOLERANCE


def test_64_greedy_tokens_equal_transformers(pair):
    reference, folder = pair
    prompt = [5, 17, 93, 4]
    expected = reference.generate(
        torch.tensor([prompt]),
        max_new_tokens=64,
        min_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0].tolist()
    driver, tokens = Driver(load_model(folder)), list(prompt)
    pending = tokens
    for _ in range(64):
        tokens.append(int(driver.logits(pending)[-1].argmax()))
        pending = tokens[-1:]
    assert tokens == expected


@pytest.mark.parametrize("dtype", HALF_TOLERANCES)
def test_half_precision_stays_close(pair, dtype):
    reference, folder = pair
    ids = list(range(3, 40))
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0]
    logits = Driver(load_model(folder, data_type=dtype)).logits(ids)
    assert logits.dtype is torch.float32
    # Of all tokens together: where two experts are nearly as good, rounding may choose the other one.
    doubtful = 2 if hasattr(reference.config, "num_experts_per_tok") else 1
    assert (logits - expected).norm() < doubtful * HALF_TOLERANCES[dtype] * expected.norm()
