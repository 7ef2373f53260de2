# SPDX-License-Identifier: BSD-3-Clause
"""Executes batches on one rank: token pool, KV cache, the layers of this stage, sampling on the last one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..config import EngineConfig
from ..engine.batch import Batch, StepResult
from ..models import Model
from ..parallel.mesh import Mesh
from ..parallel.pipeline import Pipeline
from .device_batch import DeviceBatch, to_device
from .sampler import Sampler
from .sampling_table import SamplingTable


@dataclass(frozen=True, slots=True)
class SampledHere:
    """A step whose tokens this rank drew."""

    tokens: Tensor
    logprobs: Tensor

    def result(self) -> StepResult:
        return StepResult(self.tokens.cpu().numpy(), self.logprobs.cpu().numpy())


@dataclass(frozen=True, slots=True)
class SampledElsewhere:
    """A step whose tokens the last pipeline stage sends back."""

    pipeline: Pipeline
    num_samples: int

    def result(self) -> StepResult:
        return StepResult(*self.pipeline.receive_samples(self.num_samples))


NOTHING_SAMPLED = SampledHere(torch.empty(0, dtype=torch.int32), torch.empty(0))


class ModelRunner:
    """Identical on every rank; batches arrive in the same order everywhere."""

    def __init__(
        self,
        config: EngineConfig,
        mesh: Mesh,
        model: Model,
        pipeline: Pipeline,
        num_blocks: int,
        max_model_len: int,
    ) -> None:
        self._mesh = mesh
        self._model = model
        self._pipeline = pipeline
        self._block_size = config.cache.block_size
        shape = model.kv_cache_shape(num_blocks, self._block_size)
        self._kv_cache = torch.empty(shape, dtype=model.dtype, device=model.device)
        pool_shape = (config.max_num_seqs, max_model_len + 1)
        self._token_pool = torch.zeros(pool_shape, dtype=torch.int32, device=model.device)
        self._workspace = torch.empty(0, device=model.device)
        self._table = SamplingTable(config.max_num_seqs, model.device)
        self._sampler = Sampler(self._table, self._token_pool)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> SampledHere | SampledElsewhere:
        """Enqueues one step; every rank of a stage gets the same tokens."""
        self._install(batch)
        step = to_device(batch, self._block_size, self._model.device, self._workspace)
        hidden = self._stage_input(step)
        x = self._model.forward(hidden, step.metadata, self._kv_cache)
        if not self._mesh.is_last_stage:
            self._pipeline.send_hidden(hidden.add_(x))
            return SampledElsewhere(self._pipeline, len(batch.sample_rows))
        if not len(batch.sample_rows):
            return NOTHING_SAMPLED
        return self._sample(batch, step, x, hidden)

    def _install(self, batch: Batch) -> None:
        """Writes what the host knows into token pool and sampling table."""
        if (feed := batch.feed) is not None:
            where = (torch.from_numpy(feed.slots).long(), torch.from_numpy(feed.positions).long())
            self._token_pool[where] = torch.from_numpy(feed.tokens).to(self._token_pool.device)
        for admission in batch.admissions:
            tokens = torch.from_numpy(admission.tokens)
            self._token_pool[admission.slot, : len(tokens)] = tokens.to(self._token_pool.device)
        self._table.put_all(batch.admissions)

    def _stage_input(self, step: DeviceBatch) -> Tensor:
        positions = step.metadata.positions
        if not self._mesh.is_first_stage:
            return self._pipeline.receive_hidden(
                (len(positions), self._model.spec.hidden_size), self._model.dtype, self._model.device
            )
        ids = ops.take_tokens(self._token_pool, step.token_slots, positions)
        return self._model.embed(ids, positions)

    def _sample(self, batch: Batch, step: DeviceBatch, x: Tensor, hidden: Tensor) -> SampledHere:
        """The new token goes right behind the tokens that its row has."""
        slots = batch.slots[batch.sample_rows]
        lengths = (batch.num_computed + batch.query_lens)[batch.sample_rows]
        last = step.last_tokens.long()
        logits = self._model.logits(x[last], hidden[last])
        needs = self._table.needs(slots, lengths)
        rows, ends = (torch.from_numpy(array).to(logits.device) for array in (slots, lengths))
        tokens, logprobs = self._sampler(logits, rows, ends, needs)
        ops.put_tokens(self._token_pool, rows, ends, tokens)
        self._pipeline.return_samples(tokens, logprobs)
        return SampledHere(tokens, logprobs)
