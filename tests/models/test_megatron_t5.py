# SPDX-License-Identifier: BSD-3-Clause
"""Megatron's T5 in FasterTransformer's files: layer norms, biases, scaled scores, positions, adapters."""

from pathlib import Path

import pytest
import torch
from encoder_decoder_driver import EncoderDecoderDriver
from encoder_driver import encode
from megatron_t5 import END_ID, START_ID, Reference
from sharded_driver import load_stages
from thread_group import together
from torch import Tensor

from fastertransformer.errors import ModelLoadError
from fastertransformer.models.conversion import convert_checkpoint

SOURCE = [(7 * i + 3) % 90 + 2 for i in range(37)]
TARGET = [2, *(5 * i % 80 + 3 for i in range(20))]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=[(True, False), (True, True), (False, False)])
def case(request, tmp_path_factory):
    """(expected logits, folder with `2-gpu`)"""
    reference = Reference(*request.param)
    expected = reference.logits(SOURCE, TARGET)
    return expected, reference.write(tmp_path_factory.mktemp("megatron"), 2)


@pytest.mark.parametrize("ranks", [1, 2])
def test_logits_are_those_of_the_reference(case, ranks):
    expected, place = case
    assert (found(place, ranks) - expected).abs().max() < TOLERANCE


def found(place: Path, ranks: int, ia3_row: int = 0, **config: object) -> Tensor:
    """[ranks, T, V]"""
    (stage,) = load_stages(place, ranks, 1, model_type="T5", **config)
    assert (stage[0].info.start_id, stage[0].info.end_ids) == (START_ID, (END_ID,))

    def run(rank: int) -> Tensor:
        driver = EncoderDecoderDriver(stage[rank], 64)
        driver.ia3_row = ia3_row
        driver.encode(SOURCE)
        return driver.logits(TARGET)

    return torch.stack(together(run, ranks))


@pytest.mark.parametrize("ranks", [1, 2])
def test_factors_of_a_task_come_behind_the_biases(ranks, tmp_path):
    reference = Reference(absolute=True, gated=True, task=1)
    expected = reference.logits(SOURCE, TARGET)
    place = reference.write(tmp_path, 2)
    assert (found(place, ranks, ia3_row=2) - expected).abs().max() < TOLERANCE


def test_no_model_of_transformers_computes_it(case, tmp_path):
    _, place = case
    with pytest.raises(ModelLoadError, match=r"no Hugging Face family computes this; t5 has no .*norm LAYER"):
        convert_checkpoint(place, tmp_path / "new", "huggingface", 1, "auto", lambda *_: None)


ADAPTERS = [
    {"encoder": "pre", "decoder": "pre"},
    {"encoder": "post", "decoder": "post"},
    {"decoder": "post"},
    {"encoder": "post", "decoder": "pre"},
]
"""Where the norm of each stack's adapters is; none where it has no adapters."""


@pytest.fixture(scope="module", params=ADAPTERS, ids=str)
def adapted(request, tmp_path_factory):
    """(reference, expected logits, folder with `2-gpu`)"""
    reference = Reference(absolute=False, gated=True, adapters=request.param)
    expected = reference.logits(SOURCE, TARGET)
    return reference, expected, reference.write(tmp_path_factory.mktemp("adapters"), 2)


@pytest.mark.parametrize("ranks", [1, 2])
def test_adapters_add_to_what_is_in_front_of_them(adapted, ranks):
    _, expected, place = adapted
    assert (found(place, ranks) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("stages", [1, 2])
def test_adapters_of_the_encoder_alone(adapted, stages):
    reference, _, place = adapted
    models = [model for (model,) in load_stages(place, 1, stages, model_type="T5-Encoder")]
    states = encode(models, [SOURCE[:9], SOURCE], ["last_hidden_state"])["last_hidden_state"]
    assert (states[9:] - reference.stack("encoder", SOURCE, None)).abs().max() < TOLERANCE


def test_adapters_do_the_same_in_a_scaled_stream(adapted):
    """That of float16."""
    _, expected, place = adapted
    assert (found(place, 1, data_type="fp16") - expected).norm() < 0.01 * expected.norm()


def test_transformers_has_no_adapters(adapted, tmp_path):
    with pytest.raises(ModelLoadError, match=r"no Hugging Face family computes this; .* adapter AdapterSpec"):
        convert_checkpoint(adapted[2], tmp_path / "new", "huggingface", 1, "auto", lambda *_: None)


@pytest.mark.parametrize(
    ("line", "other", "message"),
    [
        (
            "adapter_inter_size=20",
            "adapter_inter_size=-3",
            r"adapter_inter_size of \[decoder\] is -3; expected a positive",
        ),
        ("adapter_inter_size=20", "adapter_inter_size=21", r"wi\.weight has 21 .* cannot lie in 2 files"),
        ("adapter_inter_size=20", "adapter_inter_size=0", r"do not belong .*after_attention_adapter\.Dense"),
        ("adapter_norm_position=post", "adapter_norm_position=in", "'in'; supported are pre, post"),
    ],
)
def test_adapters_that_do_not_fit_are_named(line, other, message, tmp_path):
    reference = Reference(absolute=True, gated=False, adapters={"decoder": "post"})
    reference.logits(SOURCE, TARGET)
    place = reference.write(tmp_path, 2)
    text = (place / "config.ini").read_text()
    assert line in text
    (place / "config.ini").write_text(text.replace(line, other))
    with pytest.raises(ModelLoadError, match=message):
        load_stages(place, 1, 1)
