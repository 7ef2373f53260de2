# SPDX-License-Identifier: BSD-3-Clause
"""Transformer models behind Triton Inference Server; the successor of the FasterTransformer backend."""

__version__ = "0.1.0"
