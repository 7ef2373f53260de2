# SPDX-License-Identifier: BSD-3-Clause
"""Other libraries that do what a model does. They run in processes of their own: peer_process."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import FasterTransformerError
from ...models.data_types import DTYPES
from .ctranslate2_peers import continue_with_ctranslate2, translate_with_ctranslate2
from .kind import Kind
from .torch_peer import torch_generate
from .transformers_peers import (
    continue_with_transformers,
    embed_with_transformers,
    translate_with_transformers,
)
from .workload import Workload

Generate = Callable[[Workload], list[list[int]]]
"""The new tokens of every request; of a beam search those of the best beam."""
Encode = Callable[[list[list[int]]], list[list[float]]]
"""Inputs -> their embeddings"""


def continue_with_torch(folder: Path, data_type: str, num_threads: int, load_format: str) -> Generate:  # noqa: ARG001
    """The same sizes in plain torch; its weights are random in any case."""
    torch.set_num_threads(num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generate = torch_generate(folder, DTYPES[data_type], device)

    def run(workload: Workload) -> list[list[int]]:
        if workload.shortest_input or workload.shortest_output or workload.beam_width > 1:
            raise FasterTransformerError("--peer torch takes requests of one length, and no beams")
        return generate(workload.prompts(), workload.output_len)

    return run


PEERS: Mapping[Kind, Mapping[str, Callable[[Path, str, int, str], Any]]] = {
    Kind.DECODER: {
        "torch": continue_with_torch,
        "hf": continue_with_transformers,
        "ctranslate2": continue_with_ctranslate2,
    },
    Kind.ENCODER_DECODER: {"hf": translate_with_transformers, "ctranslate2": translate_with_ctranslate2},
    Kind.ENCODER: {"hf": embed_with_transformers},
}
"""By kind of model and name: (folder, data type, threads, load format) -> Generate or Encode."""
RANDOM_WEIGHTS = frozenset({"torch"})
"""Peers that never read the checkpoint's."""
