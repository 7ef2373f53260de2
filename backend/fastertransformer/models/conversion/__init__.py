# SPDX-License-Identifier: BSD-3-Clause
"""From one format of checkpoints to the other, tensor by tensor."""

from .convert import TARGETS, Conversion, convert_checkpoint
from .folders import finished_folder

__all__ = ["TARGETS", "Conversion", "convert_checkpoint", "finished_folder"]
