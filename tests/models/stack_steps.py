# SPDX-License-Identifier: BSD-3-Clause
"""Models of tiny checkpoints, and steps of single tokens through their layers over a cache of random keys."""

from pathlib import Path

import numpy as np
import tiny_checkpoints
import tiny_encoder_decoders
import torch
from torch import Tensor

from fastertransformer import ops
from fastertransformer.config import EngineConfig
from fastertransformer.engine.batch import Batch, Cross
from fastertransformer.models import Model, StepMetadata, load
from fastertransformer.parallel.comm import SingleRank
from fastertransformer.parallel.mesh import Mesh
from fastertransformer.runtime.buckets import Bucket
from fastertransformer.runtime.decode_inputs import DecodeInputs
from fastertransformer.runtime.device_batch import CacheLayout, Limits, device_batch

BLOCK_SIZE = 16
LENGTHS = (0, 1100, 7, 255, 256, 300, 33, 514)
"""Keys of the sequences before the first step."""
ENCODER_LENGTHS = (3, 40, 1030, 257, 1, 64, 256, 511)
MOST_STEPS = 160
"""Keys that a sequence may get."""


def load_case(name: str, folder: Path, device: str, sizes: dict[str, object], **config: object) -> Model:
    """Args: name: a case of tiny checkpoints. sizes: what differs from it."""
    cases = tiny_encoder_decoders if name in tiny_encoder_decoders.CASES else tiny_checkpoints
    cases.make(name, folder, **sizes)
    model = load(
        EngineConfig(model_checkpoint_path=str(folder), **config),
        Mesh(),
        SingleRank(),
        torch.device(device),
        lambda *_: None,
    )
    assert isinstance(model, Model)
    return model


class Steps:
    """Sequences that go on, each with blocks of its own; two of these compute the same.

    Args:
        lengths: their keys before the first step; of models without an encoder other ones, too.
    """

    def __init__(self, model: Model, lengths: tuple[int, ...] = LENGTHS) -> None:
        self.model = model
        self._width = -(-(max(lengths) + MOST_STEPS) // BLOCK_SIZE)
        self._max_len = self._width * BLOCK_SIZE
        num_blocks = 2 * self._width * len(lengths)
        shape, random = model.kv_cache_shape(num_blocks, BLOCK_SIZE), torch.Generator(model.device)
        self.cache = torch.empty(shape, dtype=model.dtype, device=model.device)
        self.cache.normal_(generator=random.manual_seed(3))
        most_chunks = len(lengths) * (self._max_len // ops.CHUNK_KEYS + 1)
        workspace = ops.attention_workspace_size(most_chunks, model.num_heads, model.spec.head_dim)
        self._workspace = torch.zeros(workspace, device=model.device)
        self._layout = CacheLayout(BLOCK_SIZE, model.num_kv_heads)
        tables = np.random.default_rng(1).permutation(num_blocks).astype(np.int32)
        self._tables, self._cross_tables = tables.reshape(2, len(lengths), self._width)
        self._computed = np.array(lengths, np.int32)
        self._num_steps = 0

    def inputs(self, rows: int) -> DecodeInputs:
        """Of a step, at first of nobody."""
        cross_width = self._width if self.model.cross_attentions else 0
        return DecodeInputs(Bucket(rows, rows, 1), self._layout, self._width, cross_width, has_ia3=False)

    def metadata(self, inputs: DecodeInputs, packed: Tensor) -> StepMetadata:
        """Args: packed: those inputs, on the device."""
        limits = Limits(1, self._max_len, self._max_len, 0)
        return device_batch(inputs.arrays, packed, self._workspace, limits).metadata

    def next_inputs(self, count: int, rows: int) -> tuple[DecodeInputs, Tensor]:
        """The next tokens of `count` sequences and `rows - count` of nobody, and their hidden states."""
        chosen = (np.arange(count) + self._num_steps) % len(self._computed)
        inputs = self.inputs(rows)
        inputs.fill(self._batch(chosen))
        self._computed[chosen] += 1
        self._num_steps += 1
        generator = torch.Generator().manual_seed(self._num_steps)
        hidden = torch.randn((rows, self.model.spec.hidden_size), generator=generator)
        return inputs, hidden.to(self.model.device, self.model.dtype)

    @torch.inference_mode()
    def step(self, count: int, rows: int) -> tuple[Tensor, Tensor]:
        """What the layers leave of these tokens, without those of nobody."""
        inputs, hidden = self.next_inputs(count, rows)
        metadata = self.metadata(inputs, torch.from_numpy(inputs.packed).to(self.model.device))
        x, hidden = self.model.forward(hidden, metadata, self.cache.unbind())
        return x[:count], hidden[:count]

    def _batch(self, chosen: np.ndarray) -> Batch:
        count, cross = len(chosen), None
        if self.model.cross_attentions:
            cross = Cross(self._cross_tables[chosen], np.array(ENCODER_LENGTHS, np.int32)[chosen])
        return Batch(
            slots=chosen.astype(np.int32),
            num_computed=self._computed[chosen],
            query_lens=np.ones(count, np.int32),
            block_tables=self._tables[chosen],
            sample_rows=np.arange(count, dtype=np.int32),
            cross=cross,
        )
