# SPDX-License-Identifier: BSD-3-Clause
"""What a config.json leaves out is what transformers' config class of the family takes."""

import json
from pathlib import Path

import encoder_checkpoints
import pytest
import tiny_checkpoints
import tiny_encoder_decoders
import torch
from driver import Driver, load_model
from encoder_decoder_driver import EncoderDecoderDriver
from encoder_driver import encode
from tiny_checkpoints import change_config

IDS = [(7 * i + 3) % 90 + 2 for i in range(40)]
TOLERANCE = 1e-4
KEPT = {"model_type", "architectures", "transformers_version", "n_layer", "n_head", "num_heads", "num_layers"}
"""The last ones are sizes, which a config.json must have."""


def leave_out_defaults(reference: torch.nn.Module, folder: Path) -> None:
    config, defaults = json.loads((folder / "config.json").read_text()), type(reference.config)().to_dict()
    left_out = [key for key in config.keys() - KEPT if key in defaults and config[key] == defaults[key]]
    assert left_out
    change_config(folder, **dict.fromkeys(left_out))


@pytest.mark.parametrize("name", tiny_checkpoints.CASES)
def test_decoders(name, tmp_path):
    reference = tiny_checkpoints.make(name, tmp_path)
    leave_out_defaults(reference, tmp_path)
    with torch.no_grad():
        expected = reference(torch.tensor([IDS])).logits[0]
    assert (Driver(load_model(tmp_path)).logits(IDS) - expected).abs().max() < TOLERANCE


GATED = {"feed_forward_proj": "gated-gelu"}
SEQ2SEQ = [
    *((name, {}) for name in tiny_encoder_decoders.CASES),
    ("mt5", GATED),
    ("umt5", GATED),
]


@pytest.mark.parametrize(("name", "changes"), SEQ2SEQ)
def test_encoder_decoders(name, changes, tmp_path):
    reference = tiny_encoder_decoders.make(name, tmp_path, **changes)
    leave_out_defaults(reference, tmp_path)
    model = load_model(tmp_path)
    driver = EncoderDecoderDriver(model)
    driver.encode(IDS)
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor([IDS]), decoder_input_ids=torch.tensor([IDS[:20]])
        ).logits[0]
    assert (driver.logits(IDS[:20]) - expected).abs().max() < TOLERANCE
    assert model.info.start_id == reference.generation_config.decoder_start_token_id


@pytest.mark.parametrize("name", [name for name in encoder_checkpoints.CASES if "t5" not in name])
def test_encoders(name, tmp_path):
    reference = encoder_checkpoints.make(name, tmp_path)

    def states() -> torch.Tensor:
        return encode([load_model(tmp_path)], [IDS], ["last_hidden_state"])["last_hidden_state"]

    expected = states()
    leave_out_defaults(reference, tmp_path)
    assert (states() - expected).abs().max() < TOLERANCE
