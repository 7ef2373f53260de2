# SPDX-License-Identifier: BSD-3-Clause
"""Plays the runner for one sequence: chunks of tokens through a model, with a scattered block table."""

from collections.abc import Callable

import torch

from fastertransformer.config import EngineConfig
from fastertransformer.models import Model, StepMetadata, load
from fastertransformer.parallel.comm import Communicator, SingleRank
from fastertransformer.parallel.mesh import Mesh

BLOCK_SIZE = 4
CPU = torch.device("cpu")


def load_model(
    path: object,
    mesh: Mesh | None = None,
    group: Communicator | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    **config: object,
) -> Model:
    """One rank of the checkpoint at `path`, on the CPU."""
    engine_config = EngineConfig(model_checkpoint_path=str(path), **config)
    return load(engine_config, mesh or Mesh(), group or SingleRank(), CPU, progress)


class Driver:
    """One sequence in a cache whose blocks lie in reverse order, among blocks of garbage."""

    def __init__(self, model: Model, max_len: int = 128) -> None:
        self.model = model
        num_blocks = max_len // BLOCK_SIZE
        self.cache = torch.full(
            model.kv_cache_shape(num_blocks + 3, BLOCK_SIZE), torch.nan, dtype=model.dtype
        )
        self.table = torch.arange(num_blocks, 0, -1, dtype=torch.int32)[None]
        self.length = 0

    def metadata(self, count: int) -> StepMetadata:
        """The next `count` tokens."""
        positions = torch.arange(self.length, self.length + count, dtype=torch.int32)
        blocks = self.table[0, positions // BLOCK_SIZE]
        self.length += count
        return StepMetadata(
            positions=positions,
            slot_mapping=blocks * BLOCK_SIZE + positions % BLOCK_SIZE,
            block_tables=self.table,
            cu_seqlens_q=torch.tensor([0, count], dtype=torch.int32),
            seq_lens=torch.tensor([self.length], dtype=torch.int32),
            work=torch.zeros((2, 2), dtype=torch.int32),
            workspace=torch.empty(0),
            max_seqlen_q=count,
            max_seqlen_k=self.length,
        )

    @torch.inference_mode()
    def logits(self, ids: list[int], kept: list[int] | None = None) -> torch.Tensor:
        """[len(ids), V] for the next tokens of the sequence, or [len(kept), V] for some of them."""
        return self.model.logits(*self.left(ids, kept))

    @torch.inference_mode()
    def left(self, ids: list[int], kept: list[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What the layers leave of them, as `Model.forward` returns it."""
        metadata = self.metadata(len(ids))
        hidden = self.model.embed(torch.tensor(ids, dtype=torch.int32), metadata.positions)
        rows = None if kept is None else torch.tensor(kept, dtype=torch.int32)
        return self.model.forward(hidden, metadata, self.cache, rows)

    def chunked_logits(self, ids: list[int], chunk: int) -> torch.Tensor:
        """The same in chunks."""
        return torch.cat([self.logits(ids[i : i + chunk]) for i in range(0, len(ids), chunk)])
