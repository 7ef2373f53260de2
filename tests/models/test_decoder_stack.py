# SPDX-License-Identifier: BSD-3-Clause
"""The layers as one kernel leave what they leave one by one, to the bit."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stack_by_ops import StackByOps
from stack_steps import LENGTHS, Steps, load_case
from torch import Tensor

from fastertransformer import _C, ops
from fastertransformer.models import Model
from fastertransformer.runtime.captures import Captures

# Op by op, where there is no kernel

STEPS = ((1, 1), (2, 2), (3, 4), (3, 3), (1, 2), (8, 8), (5, 8), (1, 1), (2, 4), (8, 8))
"""How many sequences take part, and how many rows there are."""


ROTARY = {"max_position_embeddings": 2048}
"""As many as the sequences need."""


def load_tiny(name: str, folder: Path, **sizes: object) -> Model:
    return load_case(name, folder, "cpu", sizes, data_type="bf16")


@pytest.fixture
def by_ops(monkeypatch) -> list[StackByOps]:
    """The stacks that models get, which compute op by op."""
    made: list[StackByOps] = []

    def make_stack(*sizes: int) -> StackByOps:
        made.append(StackByOps(*sizes))
        return made[-1]

    monkeypatch.setattr(ops, "decoder_stack_kernel", lambda device: make_stack)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    return made


def both_ways(model: Model, lengths: tuple[int, ...] = LENGTHS) -> tuple[Steps, Steps]:
    """With the stack, and without it."""
    assert model.stack is not None
    return Steps(model, lengths), Steps(replace(model, stack=None), lengths)


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert bool(other.isfinite().all())
        assert torch.equal(one, other)


def assert_steps_are_the_same(
    model: Model, steps: tuple[tuple[int, int], ...], lengths: tuple[int, ...] = LENGTHS
) -> None:
    stack, layers = both_ways(model, lengths)
    before = stack.cache.clone()
    for count, rows in steps:
        assert_same(stack.step(count, rows), layers.step(count, rows))
        assert torch.equal(stack.cache, layers.cache)
    assert not torch.equal(stack.cache, before), "keys and values must be written"


CASES = ("t5", "t5-gated", "mbart", "gpt2", "bloom", "gpt_bigcode", "llama", "mistral")


@pytest.mark.parametrize("name", CASES)
def test_the_plan_computes_what_the_layers_do(name, by_ops, tmp_path):
    sizes = ROTARY if name in ("llama", "mistral") else {}
    assert_steps_are_the_same(load_tiny(name, tmp_path, **sizes), STEPS)
    assert [kernel.num_runs for kernel in by_ops] == [len(STEPS)]


def test_one_layer_alone(by_ops, tmp_path):
    model = load_tiny("gpt2", tmp_path, num_hidden_layers=1)
    assert_steps_are_the_same(model, STEPS[:3])
    assert [kernel.num_runs for kernel in by_ops] == [3]


def test_rows_that_are_kept_come_alone(by_ops, tmp_path):
    model = load_tiny("gpt2", tmp_path)
    results = []
    for steps in both_ways(model):
        inputs, hidden = steps.next_inputs(3, 3)
        metadata = steps.metadata(inputs, torch.from_numpy(inputs.packed))
        kept = torch.tensor([2, 0], dtype=torch.int32)
        results.append(model.forward(hidden, metadata, steps.cache.unbind(), kept))
    assert_same(*results)
    assert results[0][0].shape == (2, model.spec.hidden_size)
    assert by_ops[0].num_runs == 2


@pytest.mark.usefixtures("by_ops")
def test_other_steps_go_layer_by_layer(tmp_path):
    model = load_tiny("gpt2", tmp_path)
    steps = Steps(model)
    assert model.stack is not None
    caches = steps.cache.unbind()
    for count, rows, is_taken in ((3, 3, True), (3, 8, True), (3, 9, False), (2, 2, True)):
        inputs, hidden = steps.next_inputs(count, rows)
        metadata = steps.metadata(inputs, torch.from_numpy(inputs.packed))
        assert model.stack.takes(hidden, metadata, caches) == is_taken
    assert not model.stack.takes(hidden, replace(metadata, max_seqlen_q=2), caches)
    assert not model.stack.takes(hidden[:1], metadata, caches)
    assert not model.stack.takes(hidden, replace(metadata, ia3_rows=metadata.positions), caches)
    other_blocks = tuple(cache[..., :-1, :] for cache in caches)
    assert not model.stack.takes(hidden, metadata, other_blocks)


def test_without_a_kernel_that_fits_there_is_no_stack(by_ops, tmp_path, monkeypatch):
    monkeypatch.setattr(StackByOps, "fits", lambda _: False)
    assert load_tiny("gpt2", tmp_path).stack is None
    assert len(by_ops) == 1
    monkeypatch.setattr(ops, "decoder_stack_kernel", lambda device: None)
    assert load_tiny("gpt2", tmp_path).stack is None


# On a GPU

T5 = {
    "d_model": 256,
    "d_kv": 64,
    "num_heads": 4,
    "d_ff": 512,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
T5_WIDE_HEADS = {**T5, "d_model": 384, "d_kv": 128, "num_heads": 4, "d_ff": 1280}
BART = {
    "d_model": 256,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_ffn_dim": 512,
    "encoder_ffn_dim": 512,
}
BART_WIDE_HEADS = {**BART, "decoder_attention_heads": 2}
GPT = {"hidden_size": 256, "num_attention_heads": 4}
GPT_WIDE_HEADS = {"hidden_size": 512, "num_attention_heads": 4}
LLAMA = {**ROTARY, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
LLAMA_WIDE_HEADS = {**LLAMA, "hidden_size": 512, "num_key_value_heads": 2}
LLAMA_WIDE = {
    **ROTARY,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_hidden_layers": 1,
}
"""Products of warpgroups, where there are many tokens."""
LLAMA_WIDEST = {
    **LLAMA_WIDE,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
OPT_WIDE = {"hidden_size": 3072, "num_attention_heads": 24, "ffn_dim": 6144, "num_hidden_layers": 1}
"""Rows of a norm that the threads hold in two parts."""
GPU_CASES = {
    "t5": ("t5", T5),
    "t5 of one layer": ("t5", {**T5, "num_decoder_layers": 1}),
    "t5 with heads of 128": ("t5", T5_WIDE_HEADS),
    "t5 with a gate": ("t5-gated", T5),
    "t5 with a gate and heads of 128": ("t5-gated", T5_WIDE_HEADS),
    "mbart": ("mbart", BART),
    "m2m_100 with heads of 128": ("m2m_100", BART_WIDE_HEADS),
    "pegasus": ("pegasus", BART),
    "gpt2": ("gpt2", GPT),
    "gpt2 with heads of 128": ("gpt2", GPT_WIDE_HEADS),
    "opt": ("opt", {**GPT, "ffn_dim": 1024}),
    "opt with heads of 128": ("opt", {**GPT_WIDE_HEADS, "ffn_dim": 2048}),
    "bloom": ("bloom", GPT),
    "llama": ("llama", LLAMA),
    "llama with heads of 128": ("llama", LLAMA_WIDE_HEADS),
    "llama of wide products": ("llama", LLAMA_WIDE),
    "llama of the widest rows": ("llama", LLAMA_WIDEST),
    "opt of wide rows": ("opt", OPT_WIDE),
    "mistral with windows": ("mistral", LLAMA),
    "qwen2": ("qwen2", LLAMA),
    "gpt_bigcode": ("gpt_bigcode", {**GPT, "n_inner": 1024}),
}
ROUNDS = 5


VERY_LONG = (70_000, 71_111, 69_995)
"""More pieces of attention for every block than it plans at a time."""


@pytest.fixture
def load_on_gpu(tmp_path: Path) -> Callable[[str, str], Model]:
    """Loads one of the cases in a data type."""
    if not hasattr(_C, "cuda") or not hasattr(_C.cuda, "DecoderStack"):
        pytest.skip("this build has no kernel of many layers")
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernel is for Hopper")

    def load(case: str, data_type: str) -> Model:
        name, sizes = GPU_CASES[case]
        return load_case(name, tmp_path, "cuda", sizes, data_type=data_type)

    return load


def steps_of(model: Model) -> tuple[tuple[int, int], ...]:
    """Those that the kernel takes."""
    assert model.stack is not None
    return tuple(step for step in STEPS if step[1] <= model.stack.max_tokens)


@pytest.mark.gpu
@pytest.mark.parametrize("case", GPU_CASES)
@pytest.mark.parametrize("data_type", ["bf16", "fp16"])
def test_the_kernel_leaves_the_bits_of_the_layers(load_on_gpu, case, data_type):
    with torch.cuda.stream(torch.cuda.Stream()):
        model = load_on_gpu(case, data_type)
        assert_steps_are_the_same(model, steps_of(model))


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["gpt2", "gpt2 with heads of 128"])
def test_so_it_does_with_very_long_sequences(load_on_gpu, case):
    with torch.cuda.stream(torch.cuda.Stream()):
        model = load_on_gpu(case, "bf16")
        assert_steps_are_the_same(model, ((1, 1), (3, 4), (2, 2)), VERY_LONG)


@pytest.mark.gpu
@pytest.mark.parametrize("case", GPU_CASES)
def test_so_do_graphs_of_it(load_on_gpu, case):
    """Of several numbers of rows, replayed in turn while the sequences go on."""
    with torch.cuda.stream(torch.cuda.Stream()), torch.inference_mode():
        model = load_on_gpu(case, "bf16")
        stack, layers = both_ways(model)
        states = {rows: torch.zeros(rows, model.spec.hidden_size) for _, rows in steps_of(model)}
        states = {rows: state.to(model.device, model.dtype) for rows, state in states.items()}

        def lay_out(rows: int) -> tuple[Tensor, Callable[[], tuple[Tensor, Tensor]]]:
            inputs = stack.inputs(rows)
            memory = torch.from_numpy(inputs.packed).to(model.device)
            metadata = stack.metadata(inputs, memory)
            caches = stack.cache.unbind()
            return memory, lambda: model.forward(states[rows].clone(), metadata, caches)

        before = stack.cache.clone()
        captures: Captures[int, tuple[Tensor, Tensor]] = Captures(lay_out)
        captures.capture_all(sorted(states, reverse=True), lambda *_: None)
        assert torch.equal(stack.cache, before), "captures write into the cache"
        for count, rows in itertools.chain.from_iterable([steps_of(model)] * ROUNDS):
            inputs, hidden = stack.next_inputs(count, rows)
            states[rows].copy_(hidden)
            packed = torch.from_numpy(inputs.packed)
            x, left = captures.launch(rows, lambda memory, packed=packed: memory.copy_(packed))
            assert_same((x[:count], left[:count]), layers.step(count, rows))
        assert torch.equal(stack.cache, layers.cache)
