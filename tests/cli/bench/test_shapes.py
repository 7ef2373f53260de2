# SPDX-License-Identifier: BSD-3-Clause
"""The table of shapes: transformers builds the published models from it, and our families read it."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from fastertransformer.cli.bench.floors import layer_weights
from fastertransformer.cli.bench.kind import Kind, read_model
from fastertransformer.cli.bench.shapes import SHAPES, shape_folder
from fastertransformer.errors import ModelLoadError
from fastertransformer.models.spec import Positions

PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "smollm2-135m": 134_515_008,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30_532_122_624,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "gpt-j-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-3b": 2_851_598_336,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "minilm-l6": 22_713_216,
}
"""As published."""
CLASSES = {
    Kind.DECODER: AutoModelForCausalLM,
    Kind.ENCODER_DECODER: AutoModelForSeq2SeqLM,
    Kind.ENCODER: AutoModel,
}


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_builds_the_published_model(name):
    with shape_folder(name) as folder, torch.device("meta"):
        auto = CLASSES[read_model(folder, "dummy")[1]]
        model = auto.from_config(AutoConfig.from_pretrained(folder))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_our_family_reads_the_same_sizes(name):
    with shape_folder(name) as folder:
        spec, kind = read_model(folder, "dummy")
    is_tied = spec.tie_word_embeddings or kind is not Kind.DECODER
    tables = (1 if is_tied else 2) * spec.vocab_size * spec.hidden_size
    matrices = spec.num_hidden_layers * layer_weights(spec) + tables
    if spec.encoder is not None:
        heads = 2 * (spec.num_attention_heads + spec.num_key_value_heads)
        matrices += spec.num_hidden_layers * heads * spec.head_dim * spec.hidden_size
        matrices += spec.encoder.num_hidden_layers * layer_weights(spec.encoder)
    if spec.positions is Positions.LEARNED:
        matrices += spec.max_position_embeddings * spec.hidden_size
    # What is left are norms, biases and poolers.
    assert 0.985 * PARAMETERS[name] < matrices < PARAMETERS[name]


def test_an_unknown_shape_is_refused_with_those_that_are_known():
    with (
        pytest.raises(ModelLoadError, match="'llama-9' is unknown; shapes are llama-2-7b, "),
        shape_folder("llama-9"),
    ):
        pass
