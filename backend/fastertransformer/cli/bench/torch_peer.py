# SPDX-License-Identifier: BSD-3-Clause
"""The peer `torch`: plain torch with decode steps as CUDA graphs, its requests of equal length in step.

What one gets from torch without an engine and without kernels of one's own.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .torch_model import Transformer, read_sizes

_ALIGNMENT = 64
"""Of the cache, as SDPA wants its masks."""


class Decoder:
    """One token after the other for one batch; the state that a step changes stays on the device."""

    def __init__(self, model: Transformer, batch: int, length: int) -> None:
        model.allocate(batch, length)
        self._model = model
        self.batch, self.length = batch, length
        device = model.words.weight.device
        self.tokens = torch.zeros((batch, 1), dtype=torch.int64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._keys = torch.arange(length, device=device)
        self._graph = self._capture() if device.type == "cuda" else None

    def prefill(self, ids: Tensor) -> None:
        """ids [B, T]: leaves the first token in `tokens`."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        self.tokens.copy_(self._model(ids, positions, None))
        self._position.fill_(ids.shape[1])

    def step(self) -> None:
        """The next token, in `tokens`."""
        if self._graph is None:
            self._decode()
        else:
            self._graph.replay()

    def _decode(self) -> None:
        self.tokens.copy_(self._model(self.tokens, self._position, self._mask()))
        self._position += 1

    def _mask(self) -> Tensor:
        return (self._keys <= self._position)[None]

    def _capture(self) -> torch.cuda.CUDAGraph:
        self._decode()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._decode()
        return graph


def torch_generate(
    folder: Path, dtype: torch.dtype, device: torch.device
) -> Callable[[list[list[int]], int], list[list[int]]]:
    """(prompts of one length, new tokens of each) -> the new tokens."""
    torch.set_default_dtype(dtype)
    with device:
        model = Transformer(read_sizes(folder)).eval()
    torch.set_default_dtype(torch.float32)
    decoder: Decoder | None = None

    @torch.inference_mode()
    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        nonlocal decoder
        batch, length = len(prompts), len(prompts[0]) + count
        if decoder is None or decoder.batch != batch or decoder.length < length:
            decoder = Decoder(model, batch, -(-length // _ALIGNMENT) * _ALIGNMENT)
        decoder.prefill(torch.tensor(prompts, device=device))
        made = [decoder.tokens.clone()]
        for _ in range(count - 1):
            decoder.step()
            made.append(decoder.tokens.clone())
        return torch.cat(made, 1).tolist()

    return generate
