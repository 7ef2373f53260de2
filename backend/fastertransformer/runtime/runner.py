# SPDX-License-Identifier: BSD-3-Clause
"""Executes batches on one rank: token pool, KV cache, the layers of this stage, sampling on the last one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..config import EngineConfig
from ..engine.batch import Batch, Int32Array, StepResult
from ..models import Model
from ..parallel.pipeline import Pipeline
from ..parallel.world import World
from .beams import BeamSampler, copy_beams
from .buckets import prompt_buckets, token_multiple
from .device_batch import CacheLayout, DeviceBatch, place, token_updates
from .encoder_inputs import encoder_inputs
from .graphs import StepGraphs
from .memory import workspace_size
from .prefixes import Prefixes
from .raw_logits import RawLogits
from .sampler import Sampler
from .samples import Samples, num_logits, num_samples, unpack
from .sampling_table import Needs, SamplingTable
from .transfer import HostCopy, to_device

_NO_LOGITS = np.zeros((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class SampledHere:
    """A step whose tokens this rank drew; only rank 0 asks for them, and has copies."""

    tokens: HostCopy | None
    logprobs: HostCopy | None
    """None where no request asked."""
    contexts: HostCopy | None
    """None where no request of the step asked."""
    logits: HostCopy | None
    """The same."""
    world: World
    batch: Batch

    def result(self) -> StepResult:
        assert self.tokens is not None, "only rank 0 asks"
        tokens = self.tokens.wait()
        logprobs = np.zeros(len(tokens), np.float32) if self.logprobs is None else self.logprobs.wait()
        contexts = None if self.contexts is None else self.contexts.wait()
        logits = _NO_LOGITS if self.logits is None else self.logits.wait()
        result = unpack(self.batch, tokens, logprobs, contexts, logits)
        self.world.check()
        return result


@dataclass(frozen=True, slots=True)
class SampledElsewhere:
    """A step whose tokens the last pipeline stage sends back."""

    pipeline: Pipeline
    batch: Batch
    hidden_size: int
    vocab_size: int

    def result(self) -> StepResult:
        contexts = len(self.batch.contexts), self.hidden_size
        logits = num_logits(self.batch), self.vocab_size
        return unpack(self.batch, *self.pipeline.receive_samples(num_samples(self.batch), contexts, logits))


class ModelRunner:
    """Identical on every rank; batches arrive in the same order everywhere.

    Args:
        prefixes: keys and values of the checkpoint's prefix prompts, as `Prefixes` takes them.
    """

    def __init__(
        self,
        config: EngineConfig,
        world: World,
        model: Model,
        num_blocks: int,
        max_model_len: int,
        max_encoder_len: int,
        prefixes: Sequence[Tensor] = (),
    ) -> None:
        self._world = world
        self._mesh = world.mesh
        self._model = model
        self._pipeline = world.pipeline
        block_size = config.cache.block_size
        self._layout = CacheLayout(block_size, model.num_kv_heads)
        shape = model.kv_cache_shape(num_blocks, block_size)
        self._kv_cache = torch.empty(shape, dtype=model.dtype, device=model.device)
        self._layer_caches = self._kv_cache.unbind()
        pool_shape = (config.max_num_seqs, max_model_len + 1)
        self._token_pool = torch.zeros(pool_shape, dtype=torch.int32, device=model.device)
        self._workspace = torch.zeros(workspace_size(config, model, num_blocks), device=model.device)
        self._table = SamplingTable(config.max_num_seqs, model.device)
        self._sampler = Sampler(self._table, self._token_pool)
        self._beams = BeamSampler(config.beam_search_rule)
        self._raw_logits = RawLogits(model, config.max_num_seqs)
        self._prefixes = Prefixes(prefixes, block_size)
        self._nothing = Samples(self._token_pool.new_empty(0), self._workspace.new_empty(0))
        self._multiple = token_multiple(config, world, model.device, model.dtype)
        self._settled: tuple[Int32Array | None, Needs] = None, Needs.everything()
        """What all further steps of these `Batch.slots` ask for."""
        self._graphs: StepGraphs | None = None
        # The bodies of some ops ask the device, which a graph cannot hold.
        is_capturable = model.is_capturable and not ops.names_ops(config.disable_kernels)
        if model.device.type == "cuda" and self._mesh.pp_size == 1 and is_capturable:
            # All ranks take the same graphs, and none larger ones than its memory was planned for.
            layer_bytes = -world.minimum(-model.layer_bytes)
            self._graphs = StepGraphs(
                self._compute,
                prompt_buckets(layer_bytes, config.max_num_batched_tokens, config.max_num_seqs),
                config.max_num_seqs,
                max_model_len,
                max_encoder_len,
                model.info.vocab_size,
                self._layout,
                self._workspace,
                has_ia3=model.spec.ia3_num_tasks > 0,
            )

    @torch.inference_mode()
    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Captures the graphs of decode steps and of prompts, on a GPU.

        Args:
            progress: called with (graphs captured, graphs in all).
        """
        if self._graphs is not None:
            self._graphs.capture_all(progress)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> SampledHere | SampledElsewhere:
        """Enqueues one step; every rank of a stage gets the same tokens."""
        if self._graphs is not None and (bucket := self._graphs.bucket_of(batch)) is not None:
            known = token_updates(batch)
            updates = None if known is None else to_device([known], self._model.device).view(known.shape)
            self._start(batch, updates)
            needs = self._prepare_sampling(batch)
            samples = self._graphs.replay(bucket, batch, needs)
            return self._sampled(batch, samples, needs, self._raw_logits.wanted(batch, samples))
        step = place(batch, self._layout, self._workspace, self._multiple)
        self._start(batch, step.updates)
        if not self._mesh.is_last_stage:
            hidden = self._stage_input(step)
            x, hidden = self._model.forward(hidden, step.metadata, self._layer_caches)
            self._pipeline.send_hidden(hidden.add_(self._model.summed(x)))
            spec, info = self._model.spec, self._model.info
            return SampledElsewhere(self._pipeline, batch, spec.hidden_size, info.vocab_size)
        needs_all = bool(batch.contexts or batch.context_logits)
        x, hidden = self._forward(step, None if needs_all else step.kept)
        needs = self._prepare_sampling(batch)  # while the device computes the layers
        contexts = self._contexts(x, hidden, step.contexts)
        of_prompts = self._raw_logits.of_prompts(x, hidden, batch.context_logits)
        if needs_all:
            x, hidden = (each.index_select(0, step.last_tokens) for each in (x, hidden))
        samples = self._sample(x, hidden, step, needs)
        logits = self._raw_logits.wanted(batch, samples, of_prompts)
        if len(batch.sample_rows) or len(contexts) or len(logits):
            self._pipeline.return_samples(*samples.packed(), contexts, logits)
        return self._sampled(batch, samples, needs, logits, contexts if len(contexts) else None)

    def _sampled(
        self, batch: Batch, samples: Samples, needs: Needs, logits: Tensor, contexts: Tensor | None = None
    ) -> SampledHere:
        if self._mesh.rank != 0:
            return SampledHere(None, None, None, None, self._world, batch)
        tokens, logprobs = samples.packed()
        return SampledHere(
            HostCopy(tokens),
            HostCopy(logprobs) if needs.logprobs or needs.candidates else None,
            None if contexts is None else HostCopy(contexts),
            HostCopy(logits) if len(logits) else None,
            self._world,
            batch,
        )

    def _start(self, batch: Batch, updates: Tensor | None) -> None:
        """Does what comes before the layers: the copies that beams need, then the tokens that the host knows.

        Args:
            updates: as of `token_updates`, on the device.
        """
        if batch.beams is not None:
            copy_beams(batch, self._token_pool, self._kv_cache)
        if updates is not None:
            ops.put_tokens(self._token_pool, *updates.unbind())
        self._prefixes.load(batch.prefixes, self._kv_cache)
        self._encode(batch)

    def _encode(self, batch: Batch) -> None:
        """Runs the encoder for the sequences that start, and leaves in the cache what their decoders see."""
        inputs = encoder_inputs(batch, self._layout.block_size, self._model.device)
        if inputs is not None:
            self._model.encode(
                inputs.tokens, inputs.metadata, inputs.slot_mapping, self._layer_caches, inputs.replaced
            )

    def _prepare_sampling(self, batch: Batch) -> Needs:
        """Writes the parameters of new sequences into the sampling table; what the step's rows ask for."""
        settled, needs = self._settled
        if batch.slots is settled:
            return needs
        generation = self._table.generation
        self._table.put_all(batch.admissions)
        if self._graphs is not None and self._table.generation != generation:
            self._graphs.clear()
        rows = batch.sample_rows
        lengths = (batch.num_computed + batch.query_lens).take(rows)
        wants_logits = len(batch.logit_rows) > 0
        needs = self._table.needs(batch.slots.take(rows), lengths, batch.beams is not None, wants_logits)
        # Where the same sequences go on, only processing may end, when all are long enough.
        self._settled = (None if needs.processing else batch.slots), needs
        return needs

    def _stage_input(self, step: DeviceBatch) -> Tensor:
        positions = step.metadata.positions
        if not self._mesh.is_first_stage:
            return self._pipeline.receive_hidden(
                (len(positions), self._model.spec.hidden_size), self._model.dtype, self._model.device
            )
        ids = ops.take_tokens(self._token_pool, step.token_slots, positions)
        return self._model.embed(ids, positions, step.embeddings)

    def _compute(self, step: DeviceBatch, needs: Needs) -> Samples:
        """The last stage of a step, from its input to the tokens in the pool."""
        return self._sample(*self._forward(step, step.kept), step, needs)

    def _forward(self, step: DeviceBatch, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the layers leave of these tokens, and what that is to be added to."""
        return self._model.forward(self._stage_input(step), step.metadata, self._layer_caches, kept)

    def _contexts(self, x: Tensor, hidden: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
        """[C, H] float64: sums of hidden states over the spans. So wide that chunks change no digit."""
        wholes = [self._model.summed(x[begin:end].clone()).double() for begin, end in spans]
        sums = [(x + hidden[begin:end]).sum(0) for x, (begin, end) in zip(wholes, spans, strict=True)]
        return torch.stack(sums) if sums else hidden.new_empty((0, hidden.shape[1]), dtype=torch.float64)

    def _sample(self, x: Tensor, hidden: Tensor, step: DeviceBatch, needs: Needs) -> Samples:
        """Args: x, hidden: [S, H] of the tokens that sample, as the layers leave them."""
        if not len(step.last_tokens):
            return self._nothing
        logits = self._model.logits(x, hidden)
        raw = self._raw_logits.keep(logits) if needs.logits else None
        if needs.candidates:
            self._beams.before(logits, step)
        sampled = self._sampler(logits, step.sample_slots, step.sample_positions, needs)
        ops.put_tokens(self._token_pool, step.sample_slots, step.sample_positions, sampled[0])
        return Samples(*sampled, self._beams.after(logits, step) if needs.candidates else None, raw)
