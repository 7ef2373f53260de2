# SPDX-License-Identifier: BSD-3-Clause
"""Executes the batches of an encoder on one rank: embedding, the layers of this stage, heads on the last."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..config import EngineConfig
from ..engine.batch import FloatArray, Int32Array
from ..engine.encode_batch import EncodeBatch, EncodeResult
from ..messages import EncodeRequest
from ..models import ATTENTIONS, AttentionMaps, EncoderModel
from ..parallel.world import World
from .buckets import launch_bound_tokens, token_multiple
from .encode_graphs import EncodeGraphs
from .encode_step import EncodeStep, place
from .transfer import HostCopy, upload

Take = Callable[[], FloatArray]
"""Waits for the numbers of a step, all outputs one behind the other."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A step that was enqueued."""

    model: EncoderModel
    batch: EncodeBatch
    take: Take

    def result(self) -> EncodeResult:
        """The numbers of every output of every input, where the device has left them: they are many."""
        numbers, begin = self.take(), 0
        lengths = self.batch.lengths.tolist()
        arrays: list[dict[str, FloatArray]] = [{} for _ in self.batch.outputs]
        for output, rows in rows_by_output(self.model, self.batch):
            for row in rows:
                shape = self.model.shape(output, lengths[row])
                end = begin + math.prod(shape)
                arrays[row][output] = numbers[begin:end].reshape(shape)
                begin = end
        return EncodeResult(tuple(arrays))


@dataclass(frozen=True, slots=True)
class _Left:
    """What a step leaves behind the layers of this stage."""

    hidden: Tensor
    """[T, H]"""
    lengths: Int32Array
    """[B] how many of them are of each input"""
    cu_seqlens: Tensor
    """[B + 1] int32, where each input begins"""
    maps: AttentionMaps | None
    """Where any are asked for."""


class EncodeRunner:
    """Identical on every rank; batches arrive in the same order everywhere.

    Args:
        max_seqlen: the longest input that can come.
    """

    def __init__(self, config: EngineConfig, world: World, model: EncoderModel, max_seqlen: int) -> None:
        self._world = world
        self._mesh = world.mesh
        self._model = model
        self._nothing = torch.empty(0, dtype=torch.int32, device=model.device)
        self._multiple = token_multiple(config, world, model.device, model.dtype)
        self._graphs: EncodeGraphs | None = None
        # The bodies of some ops ask the device, which a graph cannot hold.
        is_capturable = not ops.names_ops(config.disable_kernels)
        if model.device.type == "cuda" and self._mesh.pp_size == 1 and is_capturable:
            bound = launch_bound_tokens(-world.minimum(-model.layer_bytes))
            largest = min(max(config.max_num_batched_tokens, max_seqlen), bound)
            self._graphs = EncodeGraphs(self._compute, model, config.max_num_seqs, largest, max_seqlen)

    def result_size(self, request: EncodeRequest) -> int:
        """How many numbers it is answered with."""
        shape, length = self._model.shape, request.num_tokens
        return sum(math.prod(shape(output, length)) for output in request.outputs)

    @property
    def max_graph_tokens(self) -> int:
        """Up to how many tokens a step is one launch; 0: none is."""
        return 0 if self._graphs is None else self._graphs.max_num_tokens

    @torch.inference_mode()
    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Captures the graphs, on a GPU.

        Args:
            progress: called with (graphs captured, graphs in all).
        """
        if self._graphs is not None:
            self._graphs.capture_all(progress)

    @torch.inference_mode()
    def execute(self, batch: EncodeBatch) -> Encoding:
        """Enqueues one step; what comes of it is rank 0's to know."""
        left = self._layers(batch)
        maps = None if left.maps is None else self._maps(left.maps)
        if self._mesh.is_last_stage:
            numbers = self._numbers(batch, left, maps)
            if self._mesh.pp_size > 1:
                nothing = numbers[:0]
                self._world.pipeline.return_samples(
                    self._nothing, nothing, numbers.double()[None], nothing[None]
                )
            return Encoding(self._model, batch, self._take_here(numbers))
        self._world.pipeline.send_hidden(left.hidden)
        if maps is not None:
            self._world.pipeline.send_hidden(maps.flatten(1))
        return Encoding(self._model, batch, lambda: self._take_from_last_stage(batch))

    def _layers(self, batch: EncodeBatch) -> _Left:
        if self._graphs is not None and self._graphs.fits(batch):
            hidden, cu_seqlens = self._graphs.replay(batch)
            return _Left(hidden, batch.lengths, cu_seqlens, None)
        step = place(batch, self._model.device, self._multiple if batch.tokens is not None else 1)
        if self._mesh.is_last_stage and self._model.needs_first_tokens(set().union(*batch.outputs)):
            return self._first_tokens(batch, step)
        hidden = self._hidden(batch, step)[: int(batch.lengths.sum())]
        return _Left(hidden, batch.lengths, step.metadata.cu_seqlens, step.metadata.maps)

    def _first_tokens(self, batch: EncodeBatch, step: EncodeStep) -> _Left:
        """The last layer computes behind its attention the first token of every input alone."""
        ones = np.ones_like(batch.lengths)
        bounds = torch.arange(len(ones) + 1, dtype=torch.int32, device=self._model.device)
        kept = replace(step, metadata=replace(step.metadata, kept=step.metadata.cu_seqlens[:-1]))
        return _Left(self._hidden(batch, kept), ones, bounds, None)

    def _hidden(self, batch: EncodeBatch, step: EncodeStep) -> Tensor:
        """[T, H] behind the layers of this stage; tokens that fill the step up are the last ones."""
        if batch.hidden_states is None or not self._mesh.is_first_stage:
            return self._compute(step)
        # The layers overwrite it, and the plan is not theirs to change.
        given = torch.tensor(batch.hidden_states) * self._model.spec.stream_scale
        return self._model.forward(given.to(self._model.device, self._model.dtype), step.metadata)

    def _compute(self, step: EncodeStep) -> Tensor:
        return self._model.forward(self._stage_input(step), step.metadata)

    def _stage_input(self, step: EncodeStep) -> Tensor:
        model, positions = self._model, step.metadata.positions
        if not self._mesh.is_first_stage:
            shape = (len(positions), model.spec.hidden_size)
            return self._world.pipeline.receive_hidden(shape, model.dtype, model.device)
        assert step.tokens is not None
        return model.embed(step.tokens, positions, step.token_types)

    def _maps(self, maps: AttentionMaps) -> Tensor:
        """[layers so far, all heads, sum of squared lengths], with those of the stages before."""
        found = self._world.tensor_group.all_gather(torch.stack(maps.layers), 1)
        if self._mesh.is_first_stage:
            return found
        before = self._mesh.layers(self._model.spec.num_hidden_layers).start
        shape = (before, found[0].numel())
        earlier = self._world.pipeline.receive_hidden(shape, found.dtype, found.device)
        return torch.cat([earlier.view(before, *found.shape[1:]), found])

    def _numbers(self, batch: EncodeBatch, left: _Left, maps: Tensor | None) -> Tensor:
        """All outputs of the step one behind the other, in the order of `rows_by_output`."""
        parts = []
        for output, rows in rows_by_output(self._model, batch):
            if output == ATTENTIONS:
                assert maps is not None
                areas = (batch.lengths[rows] ** 2).tolist()
                parts += [each.reshape(-1) for each in torch.split(maps, areas, 2)]
                continue
            seen = left.hidden, left.cu_seqlens
            if len(rows) < len(left.lengths):
                seen = _only(rows, left.lengths, left.hidden)
            parts.append(self._model.encode(output, *seen).reshape(-1))
        if not parts:  # whoever asks for the number of tokens alone asks nothing of the model
            return left.hidden.new_empty(0, dtype=torch.float32)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _take_here(self, numbers: Tensor) -> Take:
        copy = HostCopy(numbers) if self._mesh.rank == 0 else None

        def take() -> FloatArray:
            assert copy is not None, "only rank 0 asks"
            found: FloatArray = copy.wait()
            self._world.check()
            return found

        return take

    def _take_from_last_stage(self, batch: EncodeBatch) -> FloatArray:
        shapes = [
            self._model.shape(output, int(batch.lengths[row]))
            for output, rows in rows_by_output(self._model, batch)
            for row in rows
        ]
        numbers = self._world.pipeline.receive_samples(0, (1, sum(map(math.prod, shapes))), (0, 0))[2]
        single: FloatArray = numbers[0].astype(np.float32)
        return single


def _only(rows: list[int], lengths: Int32Array, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of some inputs, and where each of these begins among them."""
    ends = np.cumsum(lengths)
    spans = [np.arange(end - length, end) for end, length in zip(ends[rows], lengths[rows], strict=True)]
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths[rows]))).astype(np.int32)
    return hidden[upload(np.concatenate(spans), hidden.device)], upload(cu_seqlens, hidden.device)


def rows_by_output(model: EncoderModel, batch: EncodeBatch) -> Sequence[tuple[str, list[int]]]:
    """The inputs that ask for each output, as far as anyone does."""
    asked = set().union(*batch.outputs)
    return [
        (output, [row for row, wanted in enumerate(batch.outputs) if output in wanted])
        for output in model.outputs
        if output in asked
    ]
