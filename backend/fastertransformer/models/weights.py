# SPDX-License-Identifier: BSD-3-Clause
"""From roles to loaded layers: finds each weight, reads this rank's part, checks shapes, misses nothing."""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ModelLoadError
from ..layers.linear import Linear
from ..parallel.mesh import Mesh
from ..quant.base import Weight
from ..quant.formats import Format
from .checkpoint import Checkpoint
from .families.base import Family

Progress = Callable[[int, int], None]
"""(tensors read, tensors in all)"""

Rows = tuple[str, int, int, int]
"""One part of a merged product: role, rows of the whole, first and last + 1 row of this rank."""


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
        self._used: set[str] = set()
        self._expected: set[str] = set()
        self._total = len(checkpoint.unused(()))
        self.num_bytes = 0

    def share(self, size: int) -> tuple[int, int]:
        """This rank's part of `size` equal things."""
        part = size // self._mesh.tp_size
        return self._mesh.tp_rank * part, (self._mesh.tp_rank + 1) * part

    def vector(self, role: str, suffix: str, size: int, layer: int = 0) -> Tensor:
        """A whole vector, the same on every rank."""
        return self._keep(self._read(self._name(role, layer) + suffix, (size,), 0, 0, size))

    def table(self, role: str, rows: int, columns: int) -> Tensor:
        """A whole [rows, columns] table, the same on every rank."""
        return self._keep(self._read(self._name(role, 0) + ".weight", (rows, columns), 0, 0, rows))

    def vocabulary(self, role: str, size: int, columns: int) -> Tensor:
        """This rank's rows of [size, columns], padded with zeros to the same number on every rank."""
        part = -(-size // self._mesh.tp_size)
        start, stop = (min((self._mesh.tp_rank + end) * part, size) for end in (0, 1))
        rows = self._read(self._name(role, 0) + ".weight", (size, columns), 0, start, stop)
        return self._keep(torch.nn.functional.pad(rows, (0, 0, 0, part - len(rows))))

    def column_parallel(self, parts: list[Rows], columns: int, fused: str, layer: int, bias: bool) -> Linear:
        """One product for several roles side by side, e.g. q, k and v, each split by output rows.

        Args:
            fused: the role under which a checkpoint stores all of them as one tensor.
        """
        weight = self._merge(parts, ".weight", columns, fused, layer)
        vector = self._keep(self._merge(parts, ".bias", 0, fused, layer)) if bias else None
        return Linear(self._hold(weight, lambda: weight), vector)

    def row_parallel(
        self, role: str, rows: int, columns: int, share: tuple[int, int], layer: int, bias: bool
    ) -> Linear:
        """A product split by input columns; its bias is added on one rank only."""
        stored, shape = self._name(role, layer) + ".weight", (rows, columns)
        weight = self._matrix(stored, shape, 1, *share)
        vector = self.vector(role, ".bias", rows, layer) if bias else None

        def whole() -> Tensor:
            return weight if share == (0, columns) else self._matrix(stored, shape, 1, 0, columns)

        return Linear(self._hold(weight, whole), vector if self._mesh.tp_rank == 0 else None)

    def expect(self, role: str) -> None:
        """A weight that may lie in the checkpoint although this rank does not read it."""
        if role in self._family.names:
            self._expected |= {self._name(role, 0) + suffix for suffix in (".weight", ".bias")}

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

    def _merge(self, parts: list[Rows], suffix: str, columns: int, fused: str, layer: int) -> Tensor:
        if fused not in self._family.names:
            pieces = [
                self._matrix(self._name(role, layer) + suffix, _shape(size, columns), 0, start, stop)
                for role, size, start, stop in parts
            ]
            return torch.cat(pieces)
        whole = sum(size for _, size, _, _ in parts)
        name, offset, pieces = self._name(fused, layer) + suffix, 0, []
        for _, size, start, stop in parts:
            pieces.append(self._matrix(name, _shape(whole, columns), 0, offset + start, offset + stop))
            offset += size
        return torch.cat(pieces)

    def _matrix(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        """A slice of an [out, in] weight, or of a bias, whichever way the checkpoint stores it."""
        if not self._family.transposed or len(shape) == 1:
            return self._read(name, shape, dim, start, stop)
        return self._read(name, shape[::-1], 1 - dim, start, stop).T

    def _read(self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> Tensor:
        if not self._checkpoint.has(name):
            raise ModelLoadError(f"the checkpoint has no tensor {name}")
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
        self.num_bytes += held.num_bytes
        return held

    def _keep(self, tensor: Tensor) -> Tensor:
        self.num_bytes += tensor.nbytes
        return tensor.contiguous()

    def _name(self, role: str, layer: int) -> str:
        name = self._family.names[role].format(layer=layer)
        bare = name.removeprefix(self._family.prefix)
        return (
            name
            if self._checkpoint.has(name + ".weight") or not self._checkpoint.has(bare + ".weight")
            else bare
        )


def _shape(rows: int, columns: int) -> tuple[int, ...]:
    return (rows, columns) if columns else (rows,)
