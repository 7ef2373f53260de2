# SPDX-License-Identifier: BSD-3-Clause
"""The peer `hf`: Hugging Face transformers, on the GPU if there is one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, StoppingCriteria

from ...models.data_types import DTYPES
from .workload import Workload

ENCODER_BATCH = 32
"""Inputs that sentence-transformers computes together, unless told otherwise."""


class _Ends(StoppingCriteria):
    """Every row ends behind its own number of tokens."""

    def __init__(self, begin: int, lens: Tensor) -> None:
        self._ends = begin + lens

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return self._ends <= input_ids.shape[1]


def random_or_read(
    auto: Any, folder: Path, dtype: torch.dtype, device: torch.device, load_format: str
) -> Any:
    """A model of class `auto`, with random weights where the load format is `dummy`."""
    if load_format != "dummy":
        return auto.from_pretrained(folder, dtype=dtype).to(device).eval()
    with device:
        return auto.from_config(AutoConfig.from_pretrained(folder), dtype=dtype).eval()


def continue_with_transformers(
    folder: Path, data_type: str, num_threads: int, load_format: str
) -> Callable[[Workload], list[list[int]]]:
    """Greedy or by beams; shorter prompts are padded on their left."""
    return _generating(AutoModelForCausalLM, folder, data_type, num_threads, load_format, pads_left=True)


def translate_with_transformers(
    folder: Path, data_type: str, num_threads: int, load_format: str
) -> Callable[[Workload], list[list[int]]]:
    """Greedy or by beams; shorter inputs are padded on their right."""
    return _generating(AutoModelForSeq2SeqLM, folder, data_type, num_threads, load_format, pads_left=False)


def _generating(
    auto: Any, folder: Path, data_type: str, num_threads: int, load_format: str, pads_left: bool
) -> Callable[[Workload], list[list[int]]]:
    device = _device(num_threads)
    model = random_or_read(auto, folder, DTYPES[data_type], device, load_format)

    @torch.inference_mode()
    def generate(workload: Workload) -> list[list[int]]:
        ids, mask = _padded(workload.prompts(), device, pads_left)
        begin = ids.shape[1] if pads_left else 1
        ends = [_Ends(begin, torch.tensor(workload.output_lens, device=device))]
        made = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=workload.output_len,
            num_beams=workload.beam_width,
            do_sample=False,
            eos_token_id=None,
            forced_bos_token_id=None,
            forced_eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=ends if workload.shortest_output else None,
        )
        rows = made[:, begin:].tolist()
        return [row[:length] for row, length in zip(rows, workload.output_lens, strict=True)]

    return generate


def embed_with_transformers(
    folder: Path, data_type: str, num_threads: int, load_format: str
) -> Callable[[list[list[int]]], list[list[float]]]:
    """As sentence-transformers encodes: the longest inputs first, in padded batches; means of tokens."""
    device = _device(num_threads)
    model = random_or_read(AutoModel, folder, DTYPES[data_type], device, load_format)
    modules = folder / "modules.json"
    kinds = [entry["type"] for entry in json.loads(modules.read_text())] if modules.exists() else []
    is_normalised = any(kind.endswith("Normalize") for kind in kinds)

    @torch.inference_mode()
    def encode(prompts: list[list[int]]) -> list[list[float]]:
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        parts = []
        for begin in range(0, len(order), ENCODER_BATCH):
            ids, mask = _padded([prompts[i] for i in order[begin : begin + ENCODER_BATCH]], device, False)
            tokens = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            shown = mask[..., None].float()
            parts.append((tokens * shown).sum(1) / shown.sum(1))
        found = torch.cat(parts)
        found = torch.nn.functional.normalize(found, dim=1) if is_normalised else found
        ordered = torch.empty_like(found)
        ordered[torch.tensor(order, device=device)] = found
        embeddings: list[list[float]] = ordered.tolist()
        return embeddings

    return encode


def _device(num_threads: int) -> torch.device:
    torch.set_num_threads(num_threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _padded(prompts: list[list[int]], device: torch.device, pads_left: bool) -> tuple[Tensor, Tensor]:
    """[B, longest] ids and mask."""
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        begin = longest - len(prompt) if pads_left else 0
        ids[row, begin : begin + len(prompt)] = torch.tensor(prompt)
        mask[row, begin : begin + len(prompt)] = 1
    return ids.to(device), mask.to(device)
