# SPDX-License-Identifier: BSD-3-Clause
"""Which rank computes what: tensor-parallel rank fastest, then the pipeline stage."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mesh:
    """Place of one rank: rank = pp_rank * tp_size + tp_rank."""

    tp_size: int = 1
    pp_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size, f"rank {self.rank} is not in a mesh of {self.size}"

    @property
    def size(self) -> int:
        return self.tp_size * self.pp_size

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tp_size

    @property
    def pp_rank(self) -> int:
        return self.rank // self.tp_size

    @property
    def is_first_stage(self) -> bool:
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pp_rank == self.pp_size - 1

    def layers(self, num_hidden_layers: int) -> range:
        """Layers of this stage: contiguous, the first stages take one more where it does not divide."""
        per_stage, extra = divmod(num_hidden_layers, self.pp_size)
        first = self.pp_rank * per_stage + min(self.pp_rank, extra)
        return range(first, first + per_stage + (self.pp_rank < extra))
