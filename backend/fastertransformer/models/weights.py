# SPDX-License-Identifier: BSD-3-Clause
"""From roles to loaded layers: finds each weight, reads this rank's part, checks shapes, misses nothing."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ModelLoadError
from ..layers.linear import Linear
from ..parallel.mesh import Mesh
from ..quant.base import Weight
from ..quant.formats import Format
from .checkpoint import Checkpoint
from .families.base import Family
from .legacy import legacy_name

Progress = Callable[[int, int], None]
"""(tensors read, tensors in all)"""


class Place(NamedTuple):
    """Where a weight belongs, as far as its name says."""

    layer: int = 0
    expert: int = 0


OUTSIDE = Place()
"""Of the layers."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of several products side by side."""

    role: str
    size: int
    """Rows of the whole."""
    start: int
    stop: int
    """Rows of this rank."""


@dataclass(frozen=True, slots=True)
class Fused:
    """The same as one tensor of a checkpoint that stores them so."""

    role: str
    rows: Tensor
    """Where the rows of this rank lie in it, those of the first part first."""


class WeightReader:
    """Reads the weights of one rank in `dtype`, onto `device`; `format` holds the matrices of the layers."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        family: Family,
        mesh: Mesh,
        dtype: torch.dtype,
        device: torch.device,
        progress: Progress,
        format: Format,
    ) -> None:
        self._checkpoint = checkpoint
        self._family = family
        self._mesh = mesh
        self._dtype = dtype
        self._device = device
        self._progress = progress
        self._format = format
        self._names = family.names
        self._used: set[str] = set()
        self._expected: set[str] = set()
        self._total = len(checkpoint.unused(()))
        self._vocabularies: dict[str, Tensor] = {}
        self._sizes: list[int] = []

    def of_encoder(self) -> "WeightReader":
        """The same reader for the names that the encoder of an encoder-decoder has."""
        reader = copy.copy(self)
        reader._names = self._family.encoder_names
        return reader

    @property
    def num_bytes(self) -> int:
        """Of all that was read so far."""
        return sum(self._sizes)

    def share(self, size: int) -> tuple[int, int]:
        """This rank's part of `size` equal things."""
        part = size // self._mesh.tp_size
        return self._mesh.tp_rank * part, (self._mesh.tp_rank + 1) * part

    def vector(self, role: str, suffix: str, size: int, place: Place = OUTSIDE) -> Tensor:
        """A whole vector, the same on every rank."""
        return self.whole(role, suffix, (size,), place)

    def whole(self, role: str, suffix: str, shape: tuple[int, ...], place: Place = OUTSIDE) -> Tensor:
        """A tensor of any shape, the same on every rank."""
        return self._keep(self._read(self._name(role, place) + suffix, shape, 0, 0, shape[0]))

    def table(self, role: str, rows: int, columns: int, offset: int = 0, place: Place = OUTSIDE) -> Tensor:
        """A [rows, columns] table behind `offset` rows that are left out, the same on every rank."""
        end = offset + rows
        return self._keep(self._read(self._name(role, place) + ".weight", (end, columns), 0, offset, end))

    def vocabulary(self, role: str, suffix: str, size: int, columns: int) -> Tensor:
        """This rank's rows of [size, columns], or of [size] without columns, padded with zeros to the same
        number on every rank; one tensor for all roles that stand for it."""
        name = self._name(role) + suffix
        if name not in self._vocabularies:
            rows = self._read(name, _shape(size, columns), 0, *self._vocabulary_share(size))
            self._vocabularies[name] = self._keep(self._padded(rows, size))
        return self._vocabularies[name]

    def head_bias(self, size: int) -> Tensor:
        """This rank's part of `head.bias` [size], or of `logits_bias`, which has no suffix and a row more."""
        role, suffix = self.head_bias_name
        if suffix:
            return self.vocabulary(role, suffix, size, 0)
        row = self._read(self._name(role), (1, size), 1, *self._vocabulary_share(size))[0]
        return self._keep(self._padded(row, size))

    @property
    def head_bias_name(self) -> tuple[str, str]:
        """Role and suffix that the checkpoint has for it."""
        return ("logits_bias", "") if "logits_bias" in self._names else ("head", ".bias")

    def _vocabulary_share(self, size: int) -> tuple[int, int]:
        part = -(-size // self._mesh.tp_size)
        start, stop = (min((self._mesh.tp_rank + end) * part, size) for end in (0, 1))
        return start, stop

    def _padded(self, rows: Tensor, size: int) -> Tensor:
        """With zeros to the number of rows that every rank has of `size`."""
        padding = (0, 0) * (rows.dim() - 1) + (0, -(-size // self._mesh.tp_size) - len(rows))
        return torch.nn.functional.pad(rows, padding)

    def column_parallel(
        self,
        parts: list[Part],
        columns: int,
        fused: Fused | None,
        place: Place,
        bias: bool,
        scale: float = 1.0,
    ) -> Linear:
        """One product for several roles side by side, e.g. q, k and v, each split by output rows.

        Args:
            fused: how a checkpoint may store them all as one; None: it never does.
            scale: of the weight alone.
        """
        weight = self.rows(parts, ".weight", columns, fused, place).mul_(scale)
        vector = self._keep(self.rows(parts, ".bias", 0, fused, place)) if bias else None
        return Linear(self._hold(weight, lambda: weight), vector)

    def row_parallel(
        self,
        role: str,
        rows: int,
        columns: int,
        share: tuple[int, int],
        place: Place,
        bias: bool,
        scale: float = 1.0,
    ) -> Linear:
        """`scale` times a product split by input columns; its bias is added on one rank only."""
        stored, shape = self._name(role, place) + ".weight", (rows, columns)
        weight = self._matrix(stored, shape, 1, *share).mul_(scale)
        vector = self.vector(role, ".bias", rows, place).mul_(scale) if bias else None

        def whole() -> Tensor:
            if share == (0, columns):
                return weight
            return self._matrix(stored, shape, 1, 0, columns).mul_(scale)

        return Linear(self._hold(weight, whole), vector if self._mesh.tp_rank == 0 else None)

    def own_rows(
        self, role: str, suffix: str, size: int, columns: int, own: tuple[int, int], place: Place
    ) -> Tensor:
        """Rows `own` of a [size, columns] matrix, or of a vector without columns; not counted as held."""
        return self._matrix(self._name(role, place) + suffix, _shape(size, columns), 0, *own)

    def own_columns(self, role: str, rows: int, size: int, own: tuple[int, int], place: Place) -> Tensor:
        """Columns `own` of a [rows, size] table of which every head has a column."""
        return self._keep(self._matrix(self._name(role, place) + ".weight", (rows, size), 1, *own))

    def factors(self, role: str, rows: int, size: int, own: tuple[int, int], place: Place) -> Tensor:
        """Columns `own` of a [rows, size] table, which lies that way round in every family."""
        return self._keep(self._read(self._name(role, place) + ".weight", (rows, size), 1, *own))

    def has(self, role: str, suffix: str) -> bool:
        """Whether the checkpoint has a weight that lies outside of the layers."""
        names = self._candidates(role, OUTSIDE) if role in self._names else []
        return any(self._has(name + suffix) for name in names)

    def rows(self, parts: list[Part], suffix: str, columns: int, fused: Fused | None, place: Place) -> Tensor:
        """[rows, columns] of this rank's rows of all parts, or their biases [rows] where columns is 0."""
        if fused is not None and fused.role in self._names:
            shape = _shape(sum(part.size for part in parts), columns)
            return self._rows(self._name(fused.role, place) + suffix, shape, fused.rows)

        def own(part: Part) -> Tensor:
            name, shape = self._name(part.role, place) + suffix, _shape(part.size, columns)
            return self._matrix(name, shape, 0, part.start, part.stop)

        return torch.cat([own(part) for part in parts])

    def expect(self, role: str) -> None:
        """A weight that may lie in the checkpoint although this rank does not read it."""
        if role in self._names:
            names = [self._name(role) + suffix for suffix in (".weight", ".bias", "")]
            self._expected |= {stored for name in names for stored in (name, legacy_name(name))}

    def check_complete(self, other_layers: Callable[[int], bool]) -> None:
        """Refuses tensors that nobody read: they belong to another architecture.

        Args:
            other_layers: whether a layer is on another pipeline stage.
        """
        unused = self._checkpoint.unused(self._used | self._expected)
        left = [name for name in unused if not self._is_ignored(name, other_layers)]
        if left:
            named = ", ".join(left[:4]) + (" ..." if len(left) > 4 else "")
            raise ModelLoadError(
                f"{len(left)} tensors of the checkpoint do not belong to this architecture: {named}"
            )
        self._progress(self._total, self._total)

    def _is_ignored(self, name: str, other_layers: Callable[[int], bool]) -> bool:
        layer = re.search(r"\.(\d+)\.", name)
        elsewhere = layer is not None and other_layers(int(layer.group(1)))
        return elsewhere or any(re.search(pattern, name) for pattern in self._family.ignored)

    def _rows(self, name: str, shape: tuple[int, ...], rows: Tensor) -> Tensor:
        """The given rows in the given order; reads each run of neighbours once, and nothing between them."""
        ordered = rows.sort().values
        ends = [*((ordered.diff() != 1).nonzero()[:, 0] + 1).tolist(), len(ordered)]
        runs = zip([0, *ends[:-1]], ends, strict=True)
        pieces = [
            self._matrix(name, shape, 0, int(ordered[first]), int(ordered[end - 1]) + 1)
            for first, end in runs
        ]
        found = torch.cat(pieces)
        return found[torch.searchsorted(ordered, rows).to(found.device)]

    def _matrix(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        """A slice of an [out, in] weight, or of a bias, whichever way the checkpoint stores it."""
        if not self._family.transposed or len(shape) == 1:
            return self._read(name, shape, dim, start, stop)
        return self._read(name, shape[::-1], 1 - dim, start, stop).T

    def _read(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        if not self._has(name):
            raise ModelLoadError(f"the checkpoint has no tensor {name}")
        name = name if self._checkpoint.has(name) else legacy_name(name)
        part = self._checkpoint.slice(name, shape, dim, start, stop)
        if not part.is_floating_point():
            raise ModelLoadError(
                f"tensor {name} is stored as {part.dtype}; quantised weights are not supported"
            )
        self._used.add(name)
        self._progress(len(self._used), self._total)
        # A slice may be a view of the mapped file, which must not be needed once the model runs.
        return part.to(self._device, self._dtype, copy=True)

    def _hold(self, weight: Tensor, rows: Callable[[], Tensor]) -> Weight:
        held = self._format(weight, rows)
        self._sizes.append(held.num_bytes)
        return held

    def _keep(self, tensor: Tensor) -> Tensor:
        self._sizes.append(tensor.nbytes)
        return tensor.contiguous()

    def _name(self, role: str, place: Place = OUTSIDE) -> str:
        """The name that the checkpoint has, of all that the family knows; the first one if it has none."""
        names = self._candidates(role, place)
        return next((name for name in names if self._has(name + ".weight")), names[0])

    def _candidates(self, role: str, place: Place) -> list[str]:
        known = self._names[role]
        full = [name.format(**place._asdict()) for name in ((known,) if isinstance(known, str) else known)]
        return [*full, *(name.removeprefix(self._family.prefix) for name in full)]

    def _has(self, name: str) -> bool:
        return self._checkpoint.has(name) or self._checkpoint.has(legacy_name(name))


def _shape(rows: int, columns: int) -> tuple[int, ...]:
    return (rows, columns) if columns else (rows,)
