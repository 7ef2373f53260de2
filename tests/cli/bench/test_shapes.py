# SPDX-License-Identifier: BSD-3-Clause
"""The table of shapes: transformers builds the published models from it, and our families read it."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fastertransformer.cli.bench.floors import layer_weights, model_spec
from fastertransformer.cli.bench.shapes import SHAPES, shape_folder
from fastertransformer.errors import ModelLoadError
from fastertransformer.models.families import FAMILIES

PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "smollm2-135m": 134_515_008,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "gpt-j-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
}
"""As published."""


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_builds_the_published_model(name):
    with shape_folder(name) as folder, torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_our_family_reads_the_same_sizes(name):
    if SHAPES[name]["model_type"] not in FAMILIES:
        pytest.skip("a family to come")
    with shape_folder(name) as folder:
        spec = model_spec(folder, "dummy")
    tables = (1 if spec.tie_word_embeddings else 2) * spec.vocab_size * spec.hidden_size
    matrices = spec.num_hidden_layers * layer_weights(spec) + tables
    # What is left are norms, biases and learned positions.
    assert 0.985 * PARAMETERS[name] < matrices < PARAMETERS[name]


def test_an_unknown_shape_is_refused_with_those_that_are_known():
    with (
        pytest.raises(ModelLoadError, match="'llama-9' is unknown; shapes are llama-2-7b, "),
        shape_folder("llama-9"),
    ):
        pass
