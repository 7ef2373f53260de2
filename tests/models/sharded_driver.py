# SPDX-License-Identifier: BSD-3-Clause
"""Plays the runners of all ranks for one sequence, ranks of a stage as threads, stages in turn."""

from functools import partial

import torch
from driver import Driver, load_model
from thread_group import groups, together

from fastertransformer.models import Model
from fastertransformer.parallel.mesh import Mesh


def load_stages(folder: object, tp_size: int, pp_size: int, **config: object) -> list[list[Model]]:
    """Models of all ranks, by stage."""
    return [
        [
            load_model(folder, Mesh(tp_size, pp_size, stage * tp_size + group.rank), group, **config)
            for group in groups(tp_size)
        ]
        for stage in range(pp_size)
    ]


class ShardedDriver:
    """The same sequence on every rank; hidden states go from stage to stage as they are."""

    def __init__(self, models: list[list[Model]]) -> None:
        self._drivers = [[Driver(model) for model in stage] for stage in models]

    def logits(self, ids: list[int]) -> list[torch.Tensor]:
        """[len(ids), V] of every rank of the last stage."""
        hidden: list[torch.Tensor | None] = [None] * len(self._drivers[0])
        for stage in self._drivers:
            hidden = together(partial(self._forward, stage, ids, hidden), len(stage))
        return together(partial(self._logits, hidden), len(hidden))

    def chunked_logits(self, ids: list[int], chunk: int) -> list[torch.Tensor]:
        """The same in chunks."""
        parts = [self.logits(ids[i : i + chunk]) for i in range(0, len(ids), chunk)]
        return [torch.cat(rank) for rank in zip(*parts, strict=True)]

    @torch.inference_mode()
    def _forward(
        self, stage: list[Driver], ids: list[int], hidden: list[torch.Tensor | None], rank: int
    ) -> torch.Tensor:
        driver, given = stage[rank], hidden[rank]
        metadata = driver.metadata(len(ids))
        if given is None:
            given = driver.model.embed(torch.tensor(ids, dtype=torch.int32), metadata.positions)
        return given.add_(driver.model.forward(given, metadata, driver.cache))

    @torch.inference_mode()
    def _logits(self, hidden: list[torch.Tensor], rank: int) -> torch.Tensor:
        return self._drivers[-1][rank].model.logits(torch.zeros_like(hidden[rank]), hidden[rank])
