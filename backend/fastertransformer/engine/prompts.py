# SPDX-License-Identifier: BSD-3-Clause
"""What the negative tokens of a prompt stand for: rows of a table, or keys and values that are loaded."""

import hashlib
from collections.abc import Sequence as List

import numpy as np

from ..messages import EngineInfo, Request
from ..validation import num_prefix_tokens
from .batch import FloatArray
from .sequence import Sequence


class PromptTables:
    """Embeddings of the checkpoint's prompt-learning tasks.

    Args:
        tables: [rows, E] of each task; empty where the tasks are prefixes.
    """

    def __init__(self, info: EngineInfo, tables: List[FloatArray] = ()) -> None:
        self._info = info
        self._tables = tables

    def give_meaning(self, sequence: Sequence) -> None:
        """Equal ids that stand for something else must not share blocks, so their digests differ."""
        request = sequence.request
        sequence.prefix_len = num_prefix_tokens(request, self._info)
        sequence.embeddings = self._table(request)
        if request.prompt_task >= 0:
            sequence.salt = b"task %d" % request.prompt_task
        elif request.embeddings:
            sequence.salt = hashlib.blake2b(request.embeddings, digest_size=16).digest()

    def _table(self, request: Request) -> FloatArray | None:
        if request.prompt_task >= 0:
            return self._tables[request.prompt_task] if self._tables else None
        if not request.embeddings:
            return None
        return np.frombuffer(request.embeddings, np.float32).reshape(-1, self._info.embedding_size)
