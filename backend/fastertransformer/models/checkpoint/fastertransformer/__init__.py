# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's own checkpoints: `config.ini` and `<n>-gpu/*.bin`."""

from .config import find_folder, holds_weights
from .prompts import PromptTask, prompt_start_id, prompt_tasks
from .reader import FasterTransformerCheckpoint

__all__ = [
    "FasterTransformerCheckpoint",
    "PromptTask",
    "find_folder",
    "holds_weights",
    "prompt_start_id",
    "prompt_tasks",
]
