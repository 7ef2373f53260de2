# SPDX-License-Identifier: BSD-3-Clause
"""Numbers of a configuration with which no model can compute are refused when it is loaded."""

import json
from pathlib import Path

import encoder_checkpoints
import pytest
import tiny_encoder_decoders
from driver import load_model
from fastertransformer_files import write
from fastertransformer_stacks import write as write_stack
from tiny_checkpoints import change_config, make

from fastertransformer.errors import ModelLoadError


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"layernorm_eps": "nan"}, "layernorm_eps is nan; expected a finite number"),
        ("llama", {"layernorm_eps": "1e400"}, "layernorm_eps is inf; expected a finite number"),
        ("gpt2", {"layernorm_eps": "-1"}, r"the epsilon of norms is -1\.0; allowed is >= 0"),
        ("llama", {"rotary_embedding": 16}, r"16 dimensions .* allowed is an even number in \[2, 8\]"),
        ("llama", {"rotary_embedding": 7}, r"7 dimensions .* allowed is an even number in \[2, 8\]"),
        ("llama", {"rope_theta": 0}, r"rope theta is 0\.0; allowed is > 0"),
        ("llama", {"rope_scaling_factor": -2}, r"rope scaling factor is -2\.0; allowed is > 0"),
        ("llama", {"num_layer": 10**11}, "num_layer is 100000000000; .* positive integer up to 2147483647"),
    ],
)
def test_numbers_of_a_config_ini(name, changes, message, tmp_path):
    more = {"head_dim": 8} if name == "llama" else {}
    place = write(tmp_path, make(name, tmp_path / "hf", **more), 1, **changes)
    with pytest.raises(ModelLoadError, match=rf"config\.ini \[\w+\]: {message}"):
        load_model(place)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relative_attention_num_buckets": 3}, "num_buckets is 3; allowed is >= 4"),
        ({"relative_attention_max_distance": 4}, "max_distance is 4; allowed is more than half of the 8"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon is inf; expected a finite number"),
    ],
)
def test_numbers_of_a_t5(changes, message, tmp_path):
    tiny_encoder_decoders.make("t5", tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ModelLoadError, match=rf"config\.json: .*{message}"):
        load_model(tmp_path)


@pytest.mark.parametrize("factor", [float("nan"), "2", None])
def test_factors_that_are_none(factor, tmp_path):
    make("phi3-long", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"]["short_factor"][1] = factor
    change_config(tmp_path, rope_parameters=config["rope_parameters"])
    with pytest.raises(ModelLoadError, match=rf"short_factor is {factor!r}; expected a finite number"):
        load_model(tmp_path)


def test_scores_that_are_divided_by_nothing(tmp_path: Path):
    model = encoder_checkpoints.make("bert", tmp_path / "hf")
    place = write_stack(tmp_path, model, 1, bert={"q_scaling": 0})
    with pytest.raises(ModelLoadError, match=r"q_scaling is 0\.0; allowed is > 0"):
        load_model(place)
