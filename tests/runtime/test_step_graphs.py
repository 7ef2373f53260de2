# SPDX-License-Identifier: BSD-3-Clause
"""Steps with prompts give the same as graphs and kernel by kernel, and a graph writes nothing else.

Steps of up to 64 tokens are filled up to no more, so that all kernels are the same and so is every bit.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from decided import decided
from transformers import LlamaConfig, LlamaForCausalLM

from fastertransformer.config import CacheConfig, EngineConfig
from fastertransformer.engine.batch import Admission, Batch, StepResult
from fastertransformer.messages import SamplingParams
from fastertransformer.models import Model, load
from fastertransformer.parallel.comm import SingleRank
from fastertransformer.parallel.mesh import Mesh
from fastertransformer.parallel.world import LocalWorld
from fastertransformer.runtime.runner import ModelRunner

VOCAB_SIZE, BLOCK_SIZE, MAX_LEN, MAX_SEQS = 211, 16, 608, 100
NUM_BLOCKS = MAX_SEQS * MAX_LEN // BLOCK_SIZE
KINDS = (
    {},
    {"top_k": 20, "seed": 3, "logprobs": True},
    {"repetition_penalty": 1.3, "min_length": 6, "logprobs": True},
    {"top_p": 0.9, "temperature": 0.8, "seed": 4},
)

SMALL_STEPS = (
    {0: 5},
    {0: 1, 1: 60},
    {0: 1, 1: 1, 2: 40},
    {2: 24},
    {0: 1, 1: 1, 2: 36},
    {0: 1, 1: 1, 2: 1, 3: 3, 4: 6, 5: 4, 6: 2, 7: 9, 8: 5, 9: 3},
    {0: 1, 1: 1, 10: 1},
    {10: 1},
    {10: 20, 11: 1, 12: 1},
    dict.fromkeys(range(13), 1),
)
"""Slots and how many tokens they compute: prompts, chunks, chunks of one token, decode steps."""
PROMPT_LENS = {0: 5, 1: 60, 2: 100, 3: 3, 4: 6, 5: 4, 6: 2, 7: 9, 8: 5, 9: 3, 10: 22, 11: 1, 12: 1}
LARGE_STEPS = (
    {20: 65},
    {21: 300, 22: 7},
    {23: 599},
    {24: 512},
    dict.fromkeys(range(25, 95), 2),
    {24: 1, 95: 130, 96: 1},
)
"""Of prompts alone: products of more than 64 rows may round otherwise, and a drawn token be another."""
PROMPT_LENS |= {20: 65, 21: 300, 22: 7, 23: 599, 24: 600, 95: 130, 96: 3, **dict.fromkeys(range(25, 95), 2)}


class Sequences:
    """What a scheduler would know of them; each has blocks of its own, in any order."""

    def __init__(self) -> None:
        self._lengths = np.array([PROMPT_LENS.get(slot, 1) for slot in range(MAX_SEQS)])
        self._computed = np.zeros(MAX_SEQS, np.int32)
        random = np.random.default_rng(1)
        self._tables = random.permutation(NUM_BLOCKS).astype(np.int32).reshape(MAX_SEQS, -1)
        self._tokens = random.integers(1, VOCAB_SIZE, (MAX_SEQS, MAX_LEN), np.int32)

    def step(self, counts: dict[int, int]) -> Batch:
        """The next tokens of some sequences, which sample where nothing is left to compute."""
        slots = np.array(list(counts), np.int32)
        computed = self._computed[slots]
        lens = np.array(list(counts.values()), np.int32)
        self._computed[slots] += lens
        samples = np.flatnonzero(self._computed[slots] == self._lengths[slots]).astype(np.int32)
        batch = Batch(
            slots=slots,
            num_computed=computed,
            query_lens=lens,
            block_tables=self._tables[slots, : -(-int((computed + lens).max()) // BLOCK_SIZE)],
            sample_rows=samples,
            admissions=tuple(self._admission(int(slot)) for slot in slots[computed == 0]),
        )
        self._lengths[slots[samples]] += 1
        return batch

    def _admission(self, slot: int) -> Admission:
        length = int(self._lengths[slot])
        sampling = SamplingParams(max_tokens=64, **KINDS[slot % len(KINDS)])
        return Admission(slot, self._tokens[slot, :length], length, (0,), sampling)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LEN,
        eos_token_id=0,
    )
    model = decided(LlamaForCausalLM(config), std=0.1)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return folder


def load_on_gpu(checkpoint: Path, data_type: str) -> tuple[EngineConfig, Model]:
    config = EngineConfig(
        model_checkpoint_path=str(checkpoint),
        data_type=data_type,
        device="cuda",
        cache=CacheConfig(block_size=BLOCK_SIZE),
        max_num_seqs=MAX_SEQS,
        max_num_batched_tokens=600,
    )
    model = load(config, Mesh(), SingleRank(), torch.device("cuda"), lambda *_: None)
    assert isinstance(model, Model)
    return config, model


class Run:
    """A runner that takes the steps, and the cache that they leave."""

    def __init__(self, config: EngineConfig, model: Model) -> None:
        self.runner = ModelRunner(config, LocalWorld(model.device), model, NUM_BLOCKS, MAX_LEN, 0)
        self.cache = self.runner._kv_cache.normal_(generator=torch.Generator(model.device).manual_seed(9))
        self._before = self.cache.clone()
        self.runner.prepare(lambda *_: None)
        assert torch.equal(self.cache, self._before), "captures write into the cache"

    def take(self, batches: list[Batch]) -> list[StepResult]:
        """Each is enqueued before the one in front of it is read, as in the engine's loop."""
        pending = [self.runner.execute(batches[0])]
        results = []
        for batch in batches[1:]:
            pending.append(self.runner.execute(batch))
            results.append(pending.pop(0).result())
        return [*results, pending.pop().result()]

    @property
    def written(self) -> torch.Tensor:
        """[num_blocks, block_size] places of the cache that have changed."""
        return (self.cache != self._before).any(5).any(3).any(1).any(0)


@contextlib.contextmanager
def both_ways(checkpoint: Path, data_type: str) -> Iterator[tuple[Run, Run]]:
    """As graphs and kernel by kernel, over the same weights."""
    with torch.cuda.stream(torch.cuda.Stream()):
        config, model = load_on_gpu(checkpoint, data_type)
        # Without a kernel there are no graphs; that its op is used by no step makes it the only difference.
        eager = msgspec.structs.replace(config, disable_kernels=("disentangled_attention",))
        yield Run(config, model), Run(eager, model)


def batches_of(steps: tuple[dict[int, int], ...], run: Run) -> list[Batch]:
    """All of which have graphs."""
    sequences = Sequences()
    batches = [sequences.step(counts) for counts in steps]
    assert run.runner._graphs is not None
    assert all(run.runner._graphs.bucket_of(batch) for batch in batches)
    return batches


@pytest.mark.gpu
@pytest.mark.parametrize("data_type", ["bf16", "fp16"])
def test_small_steps_have_the_same_bits(checkpoint, data_type):
    with both_ways(checkpoint, data_type) as (graphs, eager):
        batches = batches_of(SMALL_STEPS, graphs)
        assert eager.runner._graphs is None
        for found, expected in zip(graphs.take(batches), eager.take(batches), strict=True):
            assert found.tokens.tolist() == expected.tokens.tolist()
            assert found.logprobs.tolist() == expected.logprobs.tolist()
        assert torch.equal(graphs.cache, eager.cache)
        assert int(graphs.written.sum()) == sum(batch.num_tokens for batch in batches)


@pytest.mark.gpu
@pytest.mark.parametrize("data_type", ["fp32", "bf16"])
def test_large_steps_differ_by_rounding(checkpoint, data_type):
    with both_ways(checkpoint, data_type) as (graphs, eager):
        batches = batches_of(LARGE_STEPS, graphs)
        results = zip(graphs.take(batches), eager.take(batches), strict=True)
        assert torch.equal(graphs.written, eager.written)
        # A place whose token was computed otherwise lies some 1.8 off.
        error = (graphs.cache.float() - eager.cache.float()).abs().mean((0, 1, 3, 5))
        assert float(error.max()) < (1e-3 if data_type == "fp32" else 0.1)
        if data_type == "fp32":
            assert all(found.tokens.tolist() == expected.tokens.tolist() for found, expected in results)


@pytest.mark.gpu
def test_words_that_need_a_larger_table_let_graphs_be_captured_again(checkpoint):
    """While sequences run whose blocks nobody may write into."""
    with both_ways(checkpoint, "bf16") as (graphs, eager):
        words = tuple((word,) for word in range(1, 30))
        batches = batches_of(SMALL_STEPS, graphs)
        asked = batches[5].admissions[0]
        sampling = msgspec.structs.replace(asked.sampling, bad_words=words)
        grown = (replace(asked, sampling=sampling), *batches[5].admissions[1:])
        batches[5] = replace(batches[5], admissions=grown)
        for found, expected in zip(graphs.take(batches), eager.take(batches), strict=True):
            assert found.tokens.tolist() == expected.tokens.tolist()
        assert torch.equal(graphs.cache, eager.cache)
