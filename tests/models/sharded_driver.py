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
    """The same sequence on every rank; hidden states go from stage to stage whole."""

    def __init__(self, models: list[list[Model]]) -> None:
        self._drivers = [[Driver(model) for model in stage] for stage in models]

    def logits(self, ids: list[int], kept: list[int] | None = None) -> list[torch.Tensor]:
        """[len(ids), V] of every rank of the last stage, or [len(kept), V] of some of them."""
        *stages, last = self._drivers
        hidden: list[torch.Tensor | None] = [None] * len(last)
        for stage in stages:
            hidden = together(partial(self._hidden, stage, ids, hidden), len(stage))
        return together(partial(self._logits, last, ids, hidden, kept), len(last))

    def chunked_logits(self, ids: list[int], chunk: int) -> list[torch.Tensor]:
        """The same in chunks."""
        parts = [self.logits(ids[i : i + chunk]) for i in range(0, len(ids), chunk)]
        return [torch.cat(rank) for rank in zip(*parts, strict=True)]

    @torch.inference_mode()
    def _hidden(
        self, stage: list[Driver], ids: list[int], hidden: list[torch.Tensor | None], rank: int
    ) -> torch.Tensor:
        x, given = _forward(stage[rank], ids, hidden[rank], None)
        return given.add_(stage[rank].model.summed(x))

    @torch.inference_mode()
    def _logits(
        self,
        stage: list[Driver],
        ids: list[int],
        hidden: list[torch.Tensor | None],
        kept: list[int] | None,
        rank: int,
    ) -> torch.Tensor:
        x, given = _forward(stage[rank], ids, hidden[rank], kept)
        return stage[rank].model.logits(x, given) if len(x) else x


def _forward(
    driver: Driver, ids: list[int], hidden: torch.Tensor | None, kept: list[int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the layers of a stage leave, and what that is to be added to."""
    metadata = driver.metadata(len(ids))
    if hidden is None:
        hidden = driver.model.embed(torch.tensor(ids, dtype=torch.int32), metadata.positions)
    rows = None if kept is None else torch.tensor(kept, dtype=torch.int32)
    return driver.model.forward(hidden, metadata, driver.cache, rows)
