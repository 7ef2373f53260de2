# SPDX-License-Identifier: BSD-3-Clause
"""IA3 tasks of T5: each gives what a model gives whose weights have the task's factors in them."""

from pathlib import Path

import pytest
import tiny_encoder_decoders
import torch
from encoder_decoder_driver import EncoderDecoderDriver
from encoder_driver import encode
from fastertransformer_stacks import write, write_ia3
from sharded_driver import load_stages
from thread_group import together

from fastertransformer.errors import ModelLoadError
from fastertransformer.models.conversion import convert_checkpoint

TOLERANCE = 1e-4
SOURCE = [(7 * i + 3) % 90 + 2 for i in range(37)]
TARGET = [2, *(5 * i % 80 + 3 for i in range(20))]
NUM_TASKS = 3
INPUTS = [[5, 9, 30], SOURCE, [40] * 11, [8, 7], [12, 60, 61, 62]]
ROWS = [2, 0, 3, 1, 2]
"""1 + the task of each of them, 0 for none."""


@pytest.fixture(scope="module", params=["t5", "t5-gated"])
def case(request, tmp_path_factory):
    """(the model without a task and with each, folder around `2-gpu`)"""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_encoder_decoders.make(request.param, folder / "hf")
    place = write(folder / "own", model, 2, structure={"ia3_num_tasks": NUM_TASKS})
    return [model, *write_ia3(place, model, 2, NUM_TASKS)], folder / "own"


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("row", range(1 + NUM_TASKS))
def test_logits_are_those_of_weights_with_the_factors(case, row, ranks):
    models, folder = case
    (stage,) = load_stages(folder, ranks, 1)
    with torch.no_grad():
        expected = models[row](
            input_ids=torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([TARGET])
        ).logits[0]

    def run(rank: int) -> torch.Tensor:
        driver = EncoderDecoderDriver(stage[rank])
        driver.ia3_row = row
        driver.encode(SOURCE, before=[9, 30, 4])  # of another task
        return driver.chunked_logits(TARGET, 8)

    assert (torch.stack(together(run, ranks)) - expected).abs().max() < TOLERANCE


def test_no_factor_leaves_another_input_alone(case):
    """The encoder alone, over inputs of all tasks and of none."""
    models, folder = case
    (stage,) = load_stages(folder, 1, 1, model_type="T5-Encoder")
    states = encode(stage, INPUTS, ["last_hidden_state"], ia3_rows=ROWS)["last_hidden_state"]
    for row, ids, found in zip(ROWS, INPUTS, states.split([len(ids) for ids in INPUTS]), strict=True):
        with torch.no_grad():
            expected = models[row].encoder(torch.tensor([ids])).last_hidden_state[0]
        assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("encoder.block.1.layer.0.SelfAttention.v.ia3.weight.1.bin", "288 bytes are needed, [3, 24]"),
        ("decoder.block.2.layer.0.SelfAttention.k.ia3.weight.0.bin", "288 bytes are needed, [3, 24]"),
        ("decoder.block.0.layer.1.EncDecAttention.k.ia3.weight.0.bin", "288 bytes are needed, [3, 24]"),
        ("decoder.block.1.layer.2.DenseReluDense.ia3.weight.1.bin", "480 bytes are needed, [3, 40]"),
    ],
)
def test_missing_factors_are_named(file, message, tmp_path):
    model = tiny_encoder_decoders.make("t5", tmp_path / "hf")
    place = write(tmp_path, model, 2, structure={"ia3_num_tasks": NUM_TASKS})
    write_ia3(place, model, 2, NUM_TASKS)
    (place / file).rename(tmp_path / file)
    with pytest.raises(ModelLoadError) as missing:
        load_stages(place, 1, 1)
    assert f"{file} is missing; {message}" in str(missing.value)
    (place / file).write_bytes((tmp_path / file).read_bytes()[: 2 * 4 * 24])  # of fewer tasks
    with pytest.raises(ModelLoadError) as short:
        load_stages(place, 1, 1)
    assert f"{file} has 192 bytes; {message}" in str(short.value)


def test_transformers_has_no_place_for_them(case, tmp_path):
    _, folder = case
    with pytest.raises(
        ModelLoadError, match=r"factors of 3 IA3 tasks, .* decoder\.block\.0.*\.k\.ia3\.weight"
    ):
        convert_checkpoint(Path(folder), tmp_path / "new", "huggingface", 1, "auto", lambda *_: None)
    assert not (tmp_path / "new").exists()
