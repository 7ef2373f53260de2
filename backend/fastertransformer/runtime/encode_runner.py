# SPDX-License-Identifier: BSD-3-Clause
"""Executes the batches of an encoder on one rank: embedding, the layers of this stage, heads on the last."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engine.batch import FloatArray, Int32Array
from ..engine.encode_batch import EncodeBatch, EncodeResult
from ..messages import Array
from ..models import ATTENTIONS, AttentionMaps, EncoderMetadata, EncoderModel
from ..parallel.world import World
from .transfer import HostCopy, to_device

Take = Callable[[], FloatArray]
"""Waits for the numbers of a step, all outputs one behind the other."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A step that was enqueued."""

    model: EncoderModel
    batch: EncodeBatch
    take: Take

    def result(self) -> EncodeResult:
        """The numbers of every output of every input."""
        numbers, begin = self.take(), 0
        arrays: list[dict[str, Array]] = [{} for _ in self.batch.outputs]
        for output, rows in rows_by_output(self.model, self.batch):
            for row in rows:
                shape = self.model.shape(output, int(self.batch.lengths[row]))
                end = begin + math.prod(shape)
                arrays[row][output] = Array(shape, numbers[begin:end].tobytes())
                begin = end
        return EncodeResult(tuple(arrays))


class EncodeRunner:
    """Identical on every rank; batches arrive in the same order everywhere."""

    def __init__(self, world: World, model: EncoderModel) -> None:
        self._world = world
        self._mesh = world.mesh
        self._model = model
        self._nothing = torch.empty(0, dtype=torch.int32, device=model.device)

    @torch.inference_mode()
    def execute(self, batch: EncodeBatch) -> Encoding:
        """Enqueues one step; what comes of it is rank 0's to know."""
        metadata, arrays = self._place(batch)
        hidden = self._model.forward(self._stage_input(batch, metadata, arrays), metadata)
        maps = None if metadata.maps is None else self._maps(metadata.maps)
        if self._mesh.is_last_stage:
            numbers = self._numbers(batch, hidden, maps)
            self._world.pipeline.return_samples(self._nothing, numbers[:0], numbers.double()[None])
            return Encoding(self._model, batch, self._take_here(numbers))
        self._world.pipeline.send_hidden(hidden)
        if maps is not None:
            self._world.pipeline.send_hidden(maps.flatten(1))
        return Encoding(self._model, batch, lambda: self._take_from_last_stage(batch))

    def _place(self, batch: EncodeBatch) -> tuple[EncoderMetadata, dict[str, Tensor]]:
        """The arrays of the step on the device, by one copy."""
        bounds = np.concatenate(([0], np.cumsum(batch.lengths))).astype(np.int32)
        positions = np.arange(bounds[-1], dtype=np.int32) - np.repeat(bounds[:-1], batch.lengths)
        wanted: dict[str, Int32Array | None] = {
            "positions": positions.astype(np.int32),
            "cu_seqlens": bounds,
            "tokens": batch.tokens,
            "token_types": batch.token_types,
        }
        arrays = {name: array for name, array in wanted.items() if array is not None}
        packed = to_device(list(arrays.values()), self._model.device)
        sizes = [array.size for array in arrays.values()]
        placed = dict(zip(arrays, torch.split(packed, sizes), strict=True))
        spans = [
            (int(bounds[row]), int(bounds[row + 1]))
            for row, outputs in enumerate(batch.outputs)
            if ATTENTIONS in outputs
        ]
        maps = AttentionMaps(spans) if spans else None
        metadata = EncoderMetadata(placed["positions"], placed["cu_seqlens"], int(batch.lengths.max()), maps)
        return metadata, placed

    def _maps(self, maps: AttentionMaps) -> Tensor:
        """[layers so far, all heads, sum of squared lengths], with those of the stages before."""
        found = self._world.tensor_group.all_gather(torch.stack(maps.layers), 1)
        if self._mesh.is_first_stage:
            return found
        before = self._mesh.layers(self._model.spec.num_hidden_layers).start
        shape = (before, found[0].numel())
        earlier = self._world.pipeline.receive_hidden(shape, found.dtype, found.device)
        return torch.cat([earlier.view(before, *found.shape[1:]), found])

    def _stage_input(
        self, batch: EncodeBatch, metadata: EncoderMetadata, arrays: dict[str, Tensor]
    ) -> Tensor:
        model = self._model
        if not self._mesh.is_first_stage:
            shape = (len(metadata.positions), model.spec.hidden_size)
            return self._world.pipeline.receive_hidden(shape, model.dtype, model.device)
        if batch.hidden_states is not None:
            # The layers overwrite it, and the plan is not theirs to change.
            return torch.tensor(batch.hidden_states).to(model.device, model.dtype)
        return model.embed(arrays["tokens"], metadata.positions, arrays.get("token_types"))

    def _numbers(self, batch: EncodeBatch, hidden: Tensor, maps: Tensor | None) -> Tensor:
        """All outputs of the step one behind the other, in the order of `rows_by_output`."""
        ends = np.cumsum(batch.lengths)
        parts = []
        for output, rows in rows_by_output(self._model, batch):
            lengths, tokens = batch.lengths[rows], hidden
            if output == ATTENTIONS:
                assert maps is not None
                parts += [each.reshape(-1) for each in torch.split(maps, (lengths**2).tolist(), 2)]
                continue
            if len(rows) < len(batch.lengths):
                spans = [
                    np.arange(end - length, end) for end, length in zip(ends[rows], lengths, strict=True)
                ]
                tokens = hidden[torch.from_numpy(np.concatenate(spans)).to(hidden.device)]
            on_device = torch.from_numpy(lengths.astype(np.int64)).to(hidden.device)
            parts.append(self._model.encode(output, tokens, on_device).reshape(-1))
        return torch.cat(parts)

    def _take_here(self, numbers: Tensor) -> Take:
        copy = HostCopy(numbers) if self._mesh.rank == 0 else None

        def take() -> FloatArray:
            assert copy is not None, "only rank 0 asks"
            found: FloatArray = copy.wait().numpy()
            self._world.check()
            return found

        return take

    def _take_from_last_stage(self, batch: EncodeBatch) -> FloatArray:
        shapes = [
            self._model.shape(output, int(batch.lengths[row]))
            for output, rows in rows_by_output(self._model, batch)
            for row in rows
        ]
        numbers = self._world.pipeline.receive_samples(0, (1, sum(map(math.prod, shapes))))[2]
        single: FloatArray = numbers[0].astype(np.float32)
        return single


def rows_by_output(model: EncoderModel, batch: EncodeBatch) -> Sequence[tuple[str, list[int]]]:
    """The inputs that ask for each output, as far as anyone does."""
    found = [
        (output, [row for row, wanted in enumerate(batch.outputs) if output in wanted])
        for output in model.outputs
    ]
    return [(output, rows) for output, rows in found if rows]
