# SPDX-License-Identifier: BSD-3-Clause
"""What the graphs of a step read, as the host keeps it from one step to the next."""

import math

import numpy as np

from ..engine.batch import Batch, Int32Array
from .buckets import Bucket
from .device_batch import NOBODYS, CacheLayout, step_arrays

_TABLES = ("block_tables", "cross_block_tables")
_SUMS = ("cu_seqlens_q", "work", "cross_cu_seqlens_q", "cross_work")
_NO_ROWS = np.zeros(0, np.int32)


class StepInputs:
    """The arrays of a step of a bucket's size, side by side in one that is filled in place; at first there is
    nobody.

    Tokens and rows behind those of a batch belong to nobody: no sequence has such a token, such a sequence
    has neither a query nor a key, and what is drawn for such a row goes nowhere. Entries of block tables
    behind those that a row needs stay what they were: nothing reads them.

    Args:
        table_width, cross_width: columns of the block tables; the second one 0: there is no encoder.
        has_ia3: the model has tasks.
    """

    def __init__(
        self, bucket: Bucket, layout: CacheLayout, table_width: int, cross_width: int, has_ia3: bool
    ) -> None:
        self._layout = layout
        shapes = _shapes(bucket, table_width, cross_width, has_ia3)
        sizes = [math.prod(shape) for shape in shapes.values()]
        self.packed: Int32Array = np.zeros(sum(sizes), np.int32)
        """All arrays, in the order of their names in `arrays`."""
        parts = np.split(self.packed, np.cumsum(sizes[:-1]))
        self.arrays = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        """Views of `packed`."""
        for name, value in NOBODYS.items():
            self.arrays[name].fill(value)

    def fill(self, batch: Batch) -> Int32Array:
        """All arrays with a batch that the bucket holds; valid until the next call."""
        given = {"ia3_rows": _NO_ROWS} | step_arrays(batch, self._layout)
        for name, array in self.arrays.items():
            _put(array, given[name], name)
        return self.packed


def _put(array: Int32Array, values: Int32Array, name: str) -> None:
    """Writes `values`, and what nobody has behind them."""
    if name in _TABLES:
        rows, columns = values.shape
        array[:rows, :columns] = values
        return
    count = values.shape[-1]
    array[..., :count] = values
    array[..., count:] = values[..., -1:] if name in _SUMS else NOBODYS.get(name, 0)


def _shapes(bucket: Bucket, table_width: int, cross_width: int, has_ia3: bool) -> dict[str, tuple[int, ...]]:
    """Those of `step_arrays` for a batch as large as the bucket in which every sequence samples."""
    tokens, rows = bucket.tokens, bucket.sequences
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("positions", "slot_mapping", "token_slots"), (tokens,)),
        **dict.fromkeys(("sample_slots", "sample_positions", "num_candidates", "last_tokens"), (rows,)),
        **_attention_shapes("", rows, table_width),
    }
    if cross_width:
        shapes |= _attention_shapes("cross_", tokens, cross_width)
    if has_ia3:
        shapes["ia3_rows"] = (tokens,)
    return shapes


def _attention_shapes(prefix: str, rows: int, table_width: int) -> dict[str, tuple[int, ...]]:
    return {
        prefix + "block_tables": (rows, table_width),
        prefix + "seq_lens": (rows,),
        prefix + "cu_seqlens_q": (rows + 1,),
        prefix + "work": (2, rows + 1),
    }
