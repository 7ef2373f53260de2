# SPDX-License-Identifier: BSD-3-Clause
"""Folders that are there whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import ModelLoadError


@contextmanager
def finished_folder(folder: Path) -> Iterator[Path]:
    """Another one to fill, which gets the name of `folder` only when everything is in it.

    Raises:
        ModelLoadError: it exists and is not empty.
        OSError: somebody else has made it meanwhile.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ModelLoadError(f"{folder} exists already")
    missing = [place for place in folder.parents if not place.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as temporary:
            unfinished = Path(temporary, "unfinished")
            unfinished.mkdir()
            yield unfinished
            unfinished.replace(folder)
    except BaseException:
        with suppress(OSError):  # others may have put something there
            for place in missing:
                place.rmdir()
        raise
