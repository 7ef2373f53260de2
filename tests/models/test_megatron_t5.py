# SPDX-License-Identifier: BSD-3-Clause
"""Megatron's T5 in FasterTransformer's files: layer norms, biases, scaled scores, either positions, adapters.

transformers has no such model, so the reference is written out here.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from encoder_decoder_driver import EncoderDecoderDriver
from encoder_driver import encode
from fastertransformer_files import save, split
from sharded_driver import load_stages
from thread_group import together
from torch import Tensor

from fastertransformer.errors import ModelLoadError
from fastertransformer.layers.position import RelativeBias, relative_bias_table
from fastertransformer.models.conversion import convert_checkpoint

HIDDEN, HEADS, DIM, INNER, VOCAB, LONGEST, BUCKETS = 48, 4, 12, 80, 101, 64, 8
ADAPTER = 20
SOURCE = [(7 * i + 3) % 90 + 2 for i in range(37)]
TARGET = [2, *(5 * i % 80 + 3 for i in range(20))]
TOLERANCE = 1e-4


class Reference:
    """Tensors by their files' names, matrices as [in, out], and what they compute."""

    def __init__(
        self, absolute: bool, gated: bool, task: int | None = None, adapters: dict[str, str] | None = None
    ) -> None:
        self.absolute, self.gated, self.task = absolute, gated, task
        self.adapters = adapters or {}
        self.tensors: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)
        self.words = self.tensor("shared.weight_T", VOCAB, HIDDEN)
        self.tensor("shared.bias", VOCAB)
        self.tensor("shared.ape" if absolute else "unused", LONGEST, HIDDEN)

    def tensor(self, name: str, *shape: int) -> Tensor:
        if name not in self.tensors:
            self.tensors[name] = torch.randn(shape, generator=self.generator) * 0.2
        return self.tensors[name]

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = (self.tensor(f"{name}.{suffix}", HIDDEN) for suffix in ("weight", "bias"))
        return F.layer_norm(x, (HIDDEN,), weight, bias, 1e-6)

    def linear(self, x: Tensor, name: str, outputs: int) -> Tensor:
        return x @ self.tensor(f"{name}.weight", x.shape[-1], outputs) + self.tensor(f"{name}.bias", outputs)

    def scaled(self, x: Tensor, name: str) -> Tensor:
        """By the factors of the task, where there is one."""
        return x if self.task is None else x * self.tensor(f"{name}.ia3.weight", 3, x.shape[-1])[self.task]

    def attention(self, x: Tensor, memory: Tensor, name: str, bias: Tensor | None, is_causal: bool) -> Tensor:
        q, k, v = (
            self.linear(y, f"{name}.{role}", HEADS * DIM)
            for role, y in (("q", x), ("k", memory), ("v", memory))
        )
        k, v = self.scaled(k, f"{name}.k"), self.scaled(v, f"{name}.v")
        q, k, v = (y.view(len(y), HEADS, DIM).transpose(0, 1) for y in (q, k, v))
        scores = q @ k.transpose(1, 2) * DIM**-0.5
        scores = scores if bias is None else scores + bias
        if is_causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
        attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
        return self.linear(attended, f"{name}.o", HIDDEN)

    def mlp(self, x: Tensor, name: str) -> Tensor:
        inner = F.gelu(self.linear(x, f"{name}.wi", INNER), approximate="tanh")
        inner = inner * self.linear(x, f"{name}.wi2", INNER) if self.gated else inner
        return self.linear(self.scaled(inner, name), f"{name}.wo", HIDDEN)

    def adapted(self, x: Tensor, stack: str, layer: int, place: str) -> Tensor:
        """With what the adapter of the stack adds, where it has some."""
        kind, name = self.adapters.get(stack), f"{stack}.block.{layer}.after_{place}_adapter"
        if kind is None:
            return x
        y = self.norm(x, f"{name}.layer_norm") if kind == "pre" else x
        inner = F.silu(y @ self.tensor(f"{name}.DenseSiluDense.wi.weight", HIDDEN, ADAPTER))
        y = inner @ self.tensor(f"{name}.DenseSiluDense.wo.weight", ADAPTER, HIDDEN)
        return x + (y if kind == "pre" else self.norm(y, f"{name}.layer_norm"))

    def bias(self, stack: str, length: int) -> Tensor | None:
        if self.absolute:
            return None
        name = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table = self.tensor(name, HEADS, BUCKETS).T
        is_encoder = stack == "encoder"
        by_distance = relative_bias_table(RelativeBias(BUCKETS, 128, True), table, is_encoder)
        reach, at = 128, torch.arange(length)
        distances = (at - at[:, None]).clamp(-reach, reach if is_encoder else 0) + reach
        return by_distance[:, distances]

    def stack(self, stack: str, ids: list[int], memory: Tensor | None) -> Tensor:
        x = self.words[ids] + (self.tensor("shared.ape")[: len(ids)] if self.absolute else 0)
        bias, is_decoder = self.bias(stack, len(ids)), memory is not None
        for layer in range(2):
            block = f"{stack}.block.{layer}.layer"
            y = self.norm(x, f"{block}.0.layer_norm")
            attended = self.attention(y, y, f"{block}.0.SelfAttention", bias, is_decoder)
            x = x + self.adapted(attended, stack, layer, "attention")
            if memory is not None:
                y = self.norm(x, f"{block}.1.layer_norm")
                x = x + self.attention(y, memory, f"{block}.1.EncDecAttention", None, False)
            last = 2 if is_decoder else 1
            z = self.mlp(self.norm(x, f"{block}.{last}.layer_norm"), f"{block}.{last}.DenseReluDense")
            x = x + self.adapted(z, stack, layer, "ffn")
        return self.norm(x, f"{stack}.final_layer_norm")

    def logits(self, source: list[int], target: list[int]) -> Tensor:
        hidden = self.stack("decoder", target, self.stack("encoder", source, None))
        return hidden @ self.words.T + self.tensor("shared.bias")

    def write(self, folder: Path, shards: int) -> Path:
        """After `logits` has named all tensors."""
        place = folder / f"{shards}-gpu"
        place.mkdir(parents=True)
        tensors = {name: tensor for name, tensor in self.tensors.items() if name != "unused"}
        for layer in range(2):
            stem = f"decoder.block.{layer}.layer.0.SelfAttention"
            for suffix in ("weight", "bias"):
                parts = [tensors.pop(f"{stem}.{role}.{suffix}") for role in "qkv"]
                tensors[f"{stem}.qkv.{suffix}"] = torch.stack(parts, -2)
        for name, tensor in tensors.items():
            for file, part in self.cut(name, tensor, shards).items():
                save(place / f"{file}.bin", part, torch.float32)
        kind = ("0" if self.gated else "absolute") if self.absolute else "relative"  # either was written
        kinds = {stack: self.adapters.get(stack) for stack in ("encoder", "decoder")}
        sizes = f"d_model={HIDDEN}\nd_kv={DIM}\nd_ff={INNER}\nnum_heads={HEADS}\n"
        sizes += f"num_layers=2\nvocab_size={VOCAB}\n"
        buckets = LONGEST if self.absolute else BUCKETS
        sizes += f"relative_attention_num_buckets_or_max_pos_seq_len={buckets}\nweight_data_type=fp32\n"
        keys = {name: f"adapter_inter_size={ADAPTER if kind else 0}\n" for name, kind in kinds.items()}
        keys |= {name: f"{keys[name]}adapter_norm_position={kind}\n" for name, kind in kinds.items() if kind}
        (place / "config.ini").write_text(
            f"[encoder]\n{sizes}{keys['encoder']}feed_forward_proj={'geglu' if self.gated else 'gelu'}\n"
            f"[decoder]\n{sizes}{keys['decoder']}decoder_start_token_id=3\neos_token_id=4\n"
            f"[structure]\nt5_with_bias=1\nuse_gated_activation={int(self.gated)}\nposition_embedding_type={kind}\n"
            f"ia3_num_tasks={0 if self.task is None else 3}\n"
        )
        return place

    def cut(self, name: str, tensor: Tensor, shards: int) -> dict[str, Tensor]:
        if name.endswith((".o.weight", ".wo.weight", "relative_attention_bias.weight")):
            return split(name, tensor, shards, 0)
        roles = (".q.", ".k.", ".v.", ".qkv.", ".wi.", ".wi2.", ".ia3.")
        return split(name, tensor, shards, -1) if any(role in name for role in roles) else {name: tensor}


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
    assert (stage[0].info.start_id, stage[0].info.end_ids) == (3, (4,))

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
