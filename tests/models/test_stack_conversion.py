# SPDX-License-Identifier: BSD-3-Clause
"""Encoders and encoder-decoders in FasterTransformer's files: there and back, as converters wrote them."""

from pathlib import Path

import encoder_checkpoints
import pytest
import tiny_encoder_decoders
import torch
from encoder_decoder_driver import EncoderDecoderDriver
from encoder_driver import encode, metadata_of
from fastertransformer_files import save
from fastertransformer_stacks import write
from safetensors.torch import load_file
from sharded_driver import load_stages
from thread_group import together

from fastertransformer.errors import ModelLoadError
from fastertransformer.models.conversion import convert_checkpoint

TOLERANCE = 1e-4
SOURCE = [(7 * i + 3) % 90 + 2 for i in range(37)]
TARGET = [2, *(5 * i % 80 + 3 for i in range(20))]
ENCODER_DECODERS = (
    "t5",
    "t5-gated",
    "t5-silu",
    "mt5",
    "bart",
    "bart-scaled",
    "mbart",
    "m2m_100",
    "m2m_100-unscaled",
)
ENCODERS = (
    "t5-encoder",
    "bert",
    "bert-bare",
    "bert-pretraining",
    "bert-masked",
    "bert-classes",
    "bert-tokens",
)
ENCODERS += ("bert-spans", "deberta", "deberta-classes", "deberta-new-masked")


def convert(source: Path, target: Path, to: str, shards: int = 1, data_type: str = "auto"):
    return convert_checkpoint(source, target, to, shards, data_type, lambda *_: None)


def make(name: str, folder: Path, **changes: object) -> torch.nn.Module:
    if name in tiny_encoder_decoders.CASES and name in ENCODER_DECODERS:
        return tiny_encoder_decoders.make(name, folder, **changes)
    return encoder_checkpoints.make(name.removesuffix("-encoder"), folder, **changes)


def expected(model: torch.nn.Module) -> torch.Tensor:
    """Logits of an encoder-decoder, or the last hidden states of an encoder."""
    with torch.no_grad():
        if model.config.is_encoder_decoder and hasattr(model, "lm_head"):
            return model(input_ids=torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([TARGET])).logits[0]
        return model(torch.tensor([SOURCE]), output_hidden_states=True).hidden_states[-1][0]


def found(folder: Path, ranks: int = 1) -> torch.Tensor:
    """The same of what is loaded from `folder`, on ranks that are threads."""
    (stage,) = load_stages(folder, ranks, 1)

    def run(rank: int) -> torch.Tensor:
        if not hasattr(stage[rank], "head"):
            return encode([stage[rank]], [SOURCE], ["last_hidden_state"])["last_hidden_state"]
        driver = EncoderDecoderDriver(stage[rank])
        driver.encode(SOURCE)
        return driver.logits(TARGET)

    return together(run, ranks)[0]


@pytest.fixture(scope="module", params=(*ENCODER_DECODERS, *ENCODERS))
def case(request, tmp_path_factory):
    """(transformers model, its folder, folder around `2-gpu`)"""
    folder = tmp_path_factory.mktemp(request.param)
    model = make(request.param, folder / "hf")
    convert(folder / "hf", folder / "own", "fastertransformer", 2)
    return model, folder / "hf", folder / "own"


@pytest.mark.parametrize("ranks", [1, 2])
def test_converted_files_give_what_transformers_gives(case, ranks):
    model, _, own = case
    assert (found(own, ranks) - expected(model)).abs().max() < TOLERANCE


def test_a_round_trip_gives_the_same_bits_and_the_same_model(case, tmp_path):
    model, folder, own = case
    there = convert(own, tmp_path / "back", "huggingface")
    assert there.target_type == model.config.model_type
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    loaded = type(model).from_pretrained(tmp_path / "back", attn_implementation="eager").eval()
    assert torch.equal(expected(loaded), expected(model))
    assert loaded.config.eos_token_id == model.config.eos_token_id
    if model.config.model_type in ("bert", "deberta-v2"):  # others have no classes
        assert loaded.config.id2label == model.config.id2label


WRITTEN = (
    "t5",
    "t5-gated",
    "t5-silu",
    "mt5",
    "bart",
    "bart-scaled",
    "mbart",
    "t5-encoder",
    "bert-bare",
    "deberta",
)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_files_are_those_of_the_old_converters(name, shards, tmp_path):
    """All of theirs, and some that the old service does not read."""
    old = write(tmp_path / "old", make(name, tmp_path / "hf"), shards)
    new = convert(tmp_path / "hf", tmp_path / "new", "fastertransformer", shards).folder
    files = {path.name for path in old.glob("*.bin")} - {"shared.weight.bin"}
    extra = {path.name for path in new.glob("*.bin")} - files
    assert all(file.endswith(".padding.bin") or file.startswith("model.") for file in extra)
    assert all((old / file).read_bytes() == (new / file).read_bytes() for file in files)


GELU = {"activation_function": "gelu_new"}
OLD = {name: GELU if name.endswith("bart") else {} for name in WRITTEN if name != "bert-bare"}
OLD["deberta"] = {"hidden_act": "gelu_new"}


@pytest.mark.parametrize("name", OLD)
def test_what_the_old_converters_wrote_is_served_and_converted(name, tmp_path):
    model = make(name, tmp_path / "hf", **OLD[name])
    if OLD[name]:  # the converters wrote transformers' word for any GELU; the old service computes tanh
        for field in OLD[name]:
            setattr(model.config, field, "gelu")
    write(tmp_path / "old", model, 2)
    for field, value in OLD[name].items():
        setattr(model.config, field, value)
    assert (found(tmp_path / "old", 2) - expected(model)).abs().max() < TOLERANCE
    convert(tmp_path / "old", tmp_path / "new", "huggingface")
    loaded = type(model).from_pretrained(tmp_path / "new", attn_implementation="eager").eval()
    assert (expected(loaded) - expected(model)).abs().max() < TOLERANCE


@pytest.mark.parametrize("old_prefix", [True, False])
@pytest.mark.parametrize("q_scaling", [1.0, 0.5])
def test_bert_as_it_was_takes_hidden_states_alone(old_prefix, q_scaling, tmp_path):
    model = make("bert-bare", tmp_path / "hf")
    place = write(tmp_path, model, 2, bert={"q_scaling": q_scaling})
    if old_prefix:
        for path in place.glob("model.*.bin"):
            path.rename(path.with_name("bert" + path.name.removeprefix("model")))
    for layer in model.encoder.layer:
        layer.attention.self.scaling = layer.attention.self.scaling / q_scaling
    hidden = torch.randn(len(SOURCE), 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(inputs_embeds=hidden[None], position_ids=torch.zeros(1, len(SOURCE), dtype=torch.long))
    embedded = model.embeddings(inputs_embeds=hidden[None], position_ids=torch.zeros(1, len(SOURCE)).long())
    (stage,) = load_stages(tmp_path, 2, 1)
    assert all(rank.embedding is None for rank in stage)

    def run(rank: int) -> torch.Tensor:
        with torch.inference_mode():
            return stage[rank].forward(embedded[0].detach().clone(), metadata_of([len(SOURCE)]))

    for states in together(run, 2):
        assert (states - wanted.last_hidden_state[0]).abs().max() < TOLERANCE
    with pytest.raises(ModelLoadError, match="no embeddings"):
        convert(tmp_path, tmp_path / "new", "huggingface")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "t5",
            {"feed_forward_proj": "gelu"},
            "no place for activation gelu, .*the encoder's activation gelu",
        ),
        ("bert-bare", {"position_embedding_type": "relative_key"}, "only 'absolute' is supported"),
        ("deberta", {"share_att_key": False}, "no place for disentangled"),
        ("deberta", {"position_biased_input": True}, "no place for positions LEARNED"),
        ("deberta", {"conv_kernel_size": 3}, "no place for convolution"),
        ("deberta", {"type_vocab_size": 2}, "no place for num_token_types 2"),
    ],
)
def test_what_has_no_place_in_the_files_is_refused(name, changes, message, tmp_path):
    make(name, tmp_path / "hf", **changes)
    with pytest.raises(ModelLoadError, match=message):
        convert(tmp_path / "hf", tmp_path / "own", "fastertransformer")
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("encoder.block.1.layer.1.DenseReluDense.wo.weight.1.bin", "is missing; 7680 bytes are needed"),
        ("decoder.block.2.layer.0.SelfAttention.qkv.weight.0.bin", "is missing; 13824 bytes are needed"),
        ("shared.weight_T.bin", r"shared\.weight_T\.bin is missing; 19392 bytes"),
    ],
)
def test_a_missing_file_is_named(file, message, tmp_path):
    place = write(tmp_path, make("t5", tmp_path / "hf"), 2)
    (place / file).unlink()
    with pytest.raises(ModelLoadError, match=message):
        found(tmp_path, 1)


@pytest.mark.parametrize(
    ("name", "line", "changed", "message"),
    [
        ("deberta", "num_layer = 2", "", r"config\.ini \[deberta\] has no num_layer$"),
        (
            "deberta",
            "head_num = 6",
            "head_num = six",
            r"config\.ini \[deberta\]: head_num is 'six'; expected int",
        ),
        (
            "deberta",
            "relative_position_buckets = 16",
            "relative_position_buckets = x",
            "relative_position_b.* is",
        ),
        (
            "deberta",
            "size_per_head = 8",
            "size_per_head = 7",
            r"config\.ini \[deberta\]: hidden_size is 48; .* 6 \* 7",
        ),
        (
            "deberta",
            "q_scaling = 1.7",
            "q_scaling = 2.7",
            r"config\.ini \[deberta\]: q_scaling is 2\.7320.*; only 1\.7",
        ),
        (
            "bert-bare",
            "inter_size = 80",
            "inter_size = -80",
            r"config\.ini \[bert\]: inter_size is -80; expected",
        ),
        (
            "bart",
            "num_layers = 3",
            "num_layers = 0",
            r"\[encoder\]: num_layers of \[decoder\] is 0;",
        ),
    ],
)
def test_a_value_of_config_ini_is_named_as_it_stands_there(name, line, changed, message, tmp_path):
    make(name, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "own", "fastertransformer", 2)
    file = tmp_path / "own" / "2-gpu" / "config.ini"
    text = file.read_text()
    assert line in text
    file.write_text(text.replace(line, changed))
    with pytest.raises(ModelLoadError, match=message):
        found(tmp_path / "own")


def test_left_over_files_are_named(tmp_path):
    place = write(tmp_path, make("bart", tmp_path / "hf"), 1)
    save(place / "decoder.3.layer.CrossAttention.q.weight.0.bin", torch.ones(48), torch.float32)
    with pytest.raises(ModelLoadError, match=r"1 tensors .* decoder\.3\.layer\.CrossAttention\.q\.weight"):
        found(tmp_path, 1)


def test_positions_that_are_no_sines_are_served_and_not_converted(tmp_path):
    make("m2m_100", tmp_path / "hf")
    place = convert(tmp_path / "hf", tmp_path / "own", "fastertransformer").folder
    before = found(place)
    save(place / "encoder.embed_positions.weight.bin", torch.ones(128, 48), torch.float32)
    assert (found(place) - before).abs().max() > TOLERANCE
    with pytest.raises(ModelLoadError, match="embed_positions is not the table of sines"):
        convert(place, tmp_path / "back", "huggingface")
