# SPDX-License-Identifier: BSD-3-Clause
"""Models with int8_mode 1 compute what the same models compute with weights that were rounded before."""

from collections.abc import Callable
from pathlib import Path

import encoder_checkpoints
import pytest
import tiny_encoder_decoders
import torch
from driver import Driver, load_model
from encoder_decoder_driver import EncoderDecoderDriver
from encoder_driver import encode
from safetensors.torch import load_file, save_file
from sharded_driver import ShardedDriver, load_stages
from tiny_checkpoints import CASES, make

from fastertransformer.quant.dense import DenseWeight
from fastertransformer.quant.formats import FORMATS
from fastertransformer.quant.int8 import Int8Weight

IDS = [7 * i % 49 for i in range(57)]
TOLERANCE = 1e-5
WEIGHTS = "model.safetensors"
FAMILIES = {"llama": "layers.", "qwen2": "layers.", "gpt2": ".h."}
"""Case -> what the names of the matrices that are held as int8 have in common."""
ONE_OF_EACH = list({config: name for name, (config, _) in reversed(CASES.items())}.values())
"""The first case of every family."""
ENCODER_DECODERS = ("t5-gated", "bart", "mbart", "m2m_100", "marian", "pegasus")
ENCODERS = ("bert", "roberta", "electra", "mpnet", "distilbert", "deberta", "t5")


def rounded_weight(part: torch.Tensor, rows: Callable[[], torch.Tensor]) -> DenseWeight:
    return DenseWeight(Int8Weight.from_float(part, rows().abs().amax(1)).expand())


def round_weights(folder: Path, inside: str, transposed: bool) -> None:
    """Replaces the matrices of the layers by what int8 keeps of them."""
    tensors = load_file(folder / WEIGHTS)
    for name, tensor in tensors.items():
        if inside in name and tensor.dim() == 2:
            weight = tensor.T if transposed else tensor
            rounded = Int8Weight.from_float(weight, weight.abs().amax(1)).expand()
            tensors[name] = (rounded.T if transposed else rounded).contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def logits(folder: Path, **config: object) -> torch.Tensor:
    """Long chunks and short ones, which take other products."""
    model = load_model(folder, **config)
    long, short = (Driver(model).chunked_logits(IDS, size) for size in (40, 5))
    assert (long - short).abs().max() < TOLERANCE
    return short


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_rounded_weights(name, tmp_path):
    make(name, tmp_path)
    before, found = logits(tmp_path), logits(tmp_path, int8_mode=1)
    round_weights(tmp_path, FAMILIES[name], transposed=name == "gpt2")
    rounded = logits(tmp_path)
    assert (found - rounded).abs().max() < TOLERANCE
    assert (before - rounded).abs().max() > 10 * TOLERANCE, "rounding must show, or this shows nothing"


def encoder_decoder_logits(folder: Path, **config: object) -> torch.Tensor:
    driver = EncoderDecoderDriver(load_model(folder, **config))
    driver.encode(IDS)
    return driver.chunked_logits(IDS, 7)


def hidden_states(folder: Path, **config: object) -> torch.Tensor:
    output = "last_hidden_state"
    return encode([load_model(folder, **config)], [IDS, IDS[:5]], [output])[output]


@pytest.mark.parametrize(
    ("make_checkpoint", "name", "compute"),
    [
        *((make, name, logits) for name in ONE_OF_EACH),
        *((tiny_encoder_decoders.make, name, encoder_decoder_logits) for name in ENCODER_DECODERS),
        *((encoder_checkpoints.make, name, hidden_states) for name in ENCODERS),
    ],
)
def test_every_family_computes_with_rounded_weights(make_checkpoint, name, compute, tmp_path, monkeypatch):
    """By the same model, whose matrices are rounded when they are read and multiplied as floats."""
    make_checkpoint(name, tmp_path)
    before, found = compute(tmp_path), compute(tmp_path, int8_mode=1)
    monkeypatch.setitem(FORMATS, 0, rounded_weight)
    rounded = compute(tmp_path)
    assert (found - rounded).abs().max() < TOLERANCE
    assert (before - rounded).abs().max() > 10 * TOLERANCE, "rounding must show, or this shows nothing"


@pytest.mark.parametrize("name", FAMILIES)
def test_ranks_share_the_scales_of_whole_rows(name, tmp_path):
    make(name, tmp_path)
    expected = logits(tmp_path, int8_mode=1)
    stages = load_stages(tmp_path, 2, 2, int8_mode=1)
    found = ShardedDriver(stages).chunked_logits(IDS, 19)
    assert (found[0] - expected).abs().max() < TOLERANCE


def test_the_matrices_of_the_layers_take_a_quarter(tmp_path):
    """Of float32, and a float32 for each of their rows; word table, head and norms stay as they are."""
    make("llama", tmp_path)
    dense, held = load_model(tmp_path), load_model(tmp_path, int8_mode=1)
    matrices = [
        tensor
        for name, tensor in load_file(tmp_path / WEIGHTS).items()
        if FAMILIES["llama"] in name and tensor.dim() == 2
    ]
    saved = sum(3 * tensor.numel() - 4 * tensor.shape[0] for tensor in matrices)
    assert dense.weight_bytes - held.weight_bytes == saved
    assert dense.step_bytes - held.step_bytes == saved
