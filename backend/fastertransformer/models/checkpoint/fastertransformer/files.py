# SPDX-License-Identifier: BSD-3-Clause
"""The .bin files of a FasterTransformer checkpoint: how tensors are cut into them, slices across the cuts."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ....errors import ModelLoadError

_FILE = re.compile(r"(?P<name>.+?)(?:\.(?P<rank>\d+))?\.bin$")
_BARE = ("model.wte", "model.wpe")
"""Their files lack `.weight`, but for llama's."""

_AXES = {
    r"attention\.query_key_value\.(weight|bias)$": -1,
    r"attention\.dense\.weight$": 0,
    r"dense_h_to_4h\.(weight|bias)$": -1,
    r"dense_4h_to_h\.weight$": 0,
    r"mlp\.(gate|up)_proj\.weight$": -1,
    r"mlp\.down_proj\.weight$": 0,
    r"^model\.prefix_prompt\..+\.weight$": 2,
}
"""What is cut into a file for every tensor-parallel rank, and along which axis; all else is in one file."""


def split_axis(name: str, dims: int) -> int | None:
    """Along which axis a tensor is cut, if it is."""
    axis = next((axis for pattern, axis in _AXES.items() if re.search(pattern, name)), None)
    return None if axis is None else axis % dims


class Segment(NamedTuple):
    """Neighbours of a whole tensor that are neighbours in a shard too, along the split axis."""

    start: int
    stop: int
    shard: int
    place: int
    """Of the first one in the shard."""


def segments(parts: Sequence[int], shards: int) -> Iterator[Segment]:
    """A tensor of `parts` side by side, whose every shard holds its share of each part (q, k and v)."""
    start = 0
    for index, part in enumerate(parts):
        own, place = part // shards, sum(parts[:index]) // shards
        for shard in range(shards):
            yield Segment(start, start + own, shard, place)
            start += own


@dataclass(frozen=True, slots=True)
class Files:
    """What lies in one folder."""

    folder: Path
    dtype: torch.dtype
    num_shards: int
    names: frozenset[str]
    """Of tensors, whole ones."""

    @classmethod
    def of(cls, folder: Path, dtype: torch.dtype) -> "Files":
        found = [match for path in folder.glob("*.bin") if (match := _FILE.match(path.name))]
        ranks = [int(match["rank"]) for match in found if match["rank"] is not None]
        names = frozenset(_full(match["name"]) for match in found)
        return cls(folder, dtype, max(ranks, default=0) + 1, names)

    def slice(
        self, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int, parts: Sequence[int] = ()
    ) -> Tensor:
        """[start, stop) along `dim` of a tensor of `shape`: a view of a mapped file, or joined from several.

        Args:
            parts: sizes along the split axis of what lies side by side in each shard; none: one part.

        Raises:
            ModelLoadError: a file is missing or has another size; names it and both sizes.
        """
        axis = split_axis(name, len(shape))
        if axis is None:
            return self._map(name, None, shape).narrow(dim, start, stop - start)
        low, high = (start, stop) if dim == axis else (0, shape[axis])
        pieces = [
            self._shard(name, shape, axis, segment.shard).narrow(
                axis, segment.place + max(low, segment.start) - segment.start, overlap
            )
            for segment in segments(parts or (shape[axis],), self.num_shards)
            if (overlap := min(high, segment.stop) - max(low, segment.start)) > 0
        ]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)
        return whole if dim == axis else whole.narrow(dim, start, stop - start)

    def _shard(self, name: str, shape: tuple[int, ...], axis: int, rank: int) -> Tensor:
        if shape[axis] % self.num_shards:
            raise ModelLoadError(
                f"{self.folder}: {name} has {shape[axis]} rows or columns to split; they cannot lie in "
                f"{self.num_shards} files"
            )
        local = (*shape[:axis], shape[axis] // self.num_shards, *shape[axis + 1 :])
        return self._map(name, rank, local)

    def _map(self, name: str, rank: int | None, shape: tuple[int, ...]) -> Tensor:
        path, count = self._path(name, rank), math.prod(shape)
        needed = count * self.dtype.itemsize
        kind = str(self.dtype).removeprefix("torch.")
        wanted = f"{needed} bytes are needed, {list(shape)} in {kind}"
        if not path.is_file():
            raise ModelLoadError(f"weight file {path} is missing; {wanted}")
        if path.stat().st_size != needed:
            raise ModelLoadError(f"weight file {path} has {path.stat().st_size} bytes; {wanted}")
        mapped: Tensor = torch.from_file(str(path), size=count, dtype=self.dtype)
        return mapped.view(shape)

    def _path(self, name: str, rank: int | None) -> Path:
        path = self.folder / file_name(name, rank)
        bare = name.removesuffix(".weight")
        return self.folder / f"{bare}.bin" if bare in _BARE and not path.exists() else path


def _full(name: str) -> str:
    return name + ".weight" if name in _BARE else name


def file_name(name: str, rank: int | None, bare: bool = False) -> str:
    """Args: bare: word and position tables are called as all classes but llama call them."""
    stem = name.removesuffix(".weight") if bare and name.removesuffix(".weight") in _BARE else name
    return f"{stem}.bin" if rank is None else f"{stem}.{rank}.bin"


def shard_of(name: str, tensor: Tensor, rank: int, num_shards: int, parts: Sequence[int] = ()) -> Tensor:
    """What the file of one rank holds of a whole tensor; the inverse of `Files.slice`."""
    axis = split_axis(name, tensor.dim())
    assert axis is not None
    own = [part for part in segments(parts or (tensor.shape[axis],), num_shards) if part.shard == rank]
    return torch.cat([tensor.narrow(axis, part.start, part.stop - part.start) for part in own], axis)
