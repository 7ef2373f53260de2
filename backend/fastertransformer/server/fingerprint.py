# SPDX-License-Identifier: BSD-3-Clause
"""What tells a checkpoint from the one that lay at the same path before."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path


def fingerprint(checkpoint: str) -> str:
    """Of names, sizes and times of a checkpoint's files, which are not read.

    Args:
        checkpoint: a file, or a folder that has its files in itself or in folders `<n>-gpu`.
    """
    path = Path(checkpoint)
    digest = hashlib.sha256()
    for file in filter(os.path.isfile, sorted([path, *path.glob("*"), *path.glob("*-gpu/*")])):
        with suppress(OSError):  # it goes just now; the engine says what it misses
            state = file.stat()
            digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
