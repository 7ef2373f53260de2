# SPDX-License-Identifier: BSD-3-Clause
"""The .bin files of a FasterTransformer checkpoint: how tensors are cut into them, slices across the cuts."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ....errors import ModelLoadError

_FILE = re.compile(r"(?P<name>.+?)(?:\.(?P<rank>\d+))?\.bin$")
_STEMS = {
    "model.wte.weight": "model.wte",
    "model.wpe.weight": "model.wpe",
    "shared.weight": "shared.weight_T",
    "shared.ape.weight": "shared.ape",
}
"""Tensors whose files have another name; llama's word table has its own."""
_COPY = "shared.weight"
"""T5's word table the other way round, which nothing reads."""
_NAMES = {stem: name for name, stem in _STEMS.items()}
_OLD_PREFIX = re.compile(r"^bert\.")
"""Of what is called `model.` now."""

_AXES = {
    r"attention\.query_key_value\.(weight|bias)$": -1,
    r"attention\.(output\.)?dense\.weight$": 0,
    r"dense_h_to_4h\.(weight|bias)$": -1,
    r"dense_4h_to_h\.weight$": 0,
    r"mlp\.(gate|up)_proj\.weight$": -1,
    r"mlp\.down_proj\.weight$": 0,
    r"^model\.prefix_prompt\..+\.weight$": 2,
    r"(Self|EncDec|Cross)Attention\.(q|k|v|qkv)\.(ia3\.)?(weight|bias)$": -1,
    r"(Self|EncDec|Cross)Attention\.(o|out_proj)\.weight$": 0,
    r"relative_attention_bias\.weight$": 0,
    r"Dense(Relu|Silu)Dense\.(wi|wi2|ia3)\.(weight|bias)$": -1,
    r"Dense(Relu|Silu)Dense\.wo\.weight$": 0,
    r"SelfAttention\.fc1\.(weight|bias)$": -1,
    r"SelfAttention\.fc2\.weight$": 0,
    r"encoder\.layer\.\d+\.attention\.self\.(query|key|value)(_proj)?\.(weight|bias)$": -1,
    r"encoder\.layer\.\d+\.intermediate\.dense\.(weight|bias)$": -1,
    r"encoder\.layer\.\d+\.output\.dense\.weight$": 0,
}
"""What is cut into a file for every tensor-parallel rank, and along which axis; all else is in one file."""
_REPEATED = re.compile(r"layer\.(Self|Cross)Attention\.(out_proj|fc2)\.bias$")
"""What lies in a file for every rank, and is whole in each."""


def split_axis(name: str, dims: int) -> int | None:
    """Along which axis a tensor is cut, if it is."""
    axis = next((axis for pattern, axis in _AXES.items() if re.search(pattern, name)), None)
    return None if axis is None else axis % dims


def is_repeated(name: str) -> bool:
    """Whether every rank has a file with all of it."""
    return _REPEATED.search(name) is not None


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
    stems: Mapping[str, str]
    """What is in front of rank and `.bin` in the files of each tensor."""

    @classmethod
    def of(cls, folder: Path, dtype: torch.dtype) -> "Files":
        """Raises: ModelLoadError: a tensor has files of more ranks than the others; names them."""
        found = [match for path in sorted(folder.glob("*.bin")) if (match := _FILE.match(path.name))]
        num_shards = _num_shards(folder, [match for match in found if match["rank"] is not None])
        stems = {match["name"] for match in found} - {_COPY}
        return cls(folder, dtype, num_shards, {_name(stem): stem for stem in sorted(stems)})

    @property
    def names(self) -> Collection[str]:
        """Of whole tensors."""
        return self.stems.keys()

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
            rank = 0 if is_repeated(name) else None
            return self._map(name, rank, shape).narrow(dim, start, stop - start)
        parts = parts or (shape[axis],)
        if any(part % self.num_shards for part in parts):
            raise ModelLoadError(
                f"{self.folder}: {name} has {shape[axis]} rows or columns to split; they cannot lie in "
                f"{self.num_shards} files"
            )
        low, high = (start, stop) if dim == axis else (0, shape[axis])
        pieces = [
            self._shard(name, shape, axis, segment.shard).narrow(
                axis, segment.place + max(low, segment.start) - segment.start, overlap
            )
            for segment in segments(parts, self.num_shards)
            if (overlap := min(high, segment.stop) - max(low, segment.start)) > 0
        ]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)
        return whole if dim == axis else whole.narrow(dim, start, stop - start)

    def _shard(self, name: str, shape: tuple[int, ...], axis: int, rank: int) -> Tensor:
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
        return self.folder / _file(self.stems.get(name, _STEMS.get(name, name)), rank)


def _num_shards(folder: Path, files: Sequence[re.Match[str]]) -> int:
    """Into how many files tensors are cut: as most of them are."""
    counts: dict[str, int] = {}
    for file in files:
        counts[file["name"]] = max(counts.get(file["name"], 0), int(file["rank"]) + 1)
    tensors = Counter(counts.values())
    num_shards = min(tensors, key=lambda count: (-tensors[count], count), default=1)
    strays = [file.string for file in files if int(file["rank"]) >= num_shards]
    if strays:
        named = ", ".join(strays[:4]) + (" ..." if len(strays) > 4 else "")
        raise ModelLoadError(
            f"{folder}: {named} cannot belong to this checkpoint: {tensors[num_shards]} of {len(counts)}"
            f" tensors that are cut have no files beyond rank {num_shards - 1}; remove what another one left"
        )
    return num_shards


def _name(stem: str) -> str:
    return _NAMES.get(stem, _OLD_PREFIX.sub("model.", stem))


def _file(stem: str, rank: int | None) -> str:
    return f"{stem}.bin" if rank is None else f"{stem}.{rank}.bin"


def file_name(name: str, rank: int | None, full: bool = False) -> str:
    """Args: full: word and position tables are called as llama's are."""
    return _file(name if full else _STEMS.get(name, name), rank)


def shard_of(name: str, tensor: Tensor, rank: int, num_shards: int, parts: Sequence[int] = ()) -> Tensor:
    """What the file of one rank holds of a whole tensor; the inverse of `Files.slice`."""
    axis = split_axis(name, tensor.dim())
    assert axis is not None
    own = [part for part in segments(parts or (tensor.shape[axis],), num_shards) if part.shard == rank]
    return torch.cat([tensor.narrow(axis, part.start, part.stop - part.start) for part in own], axis)
