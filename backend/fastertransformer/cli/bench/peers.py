# SPDX-License-Identifier: BSD-3-Clause
"""Other libraries that generate, behind one signature. They run in processes of their own: peer_process."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...errors import FasterTransformerError
from .machine import DTYPES
from .torch_peer import torch_generate

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, new tokens of each) -> the new tokens"""

_CTRANSLATE2_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def transformers_generate(folder: Path, data_type: str, num_threads: int, load_format: str) -> Generate:
    """Hugging Face transformers, greedy, on the GPU if there is one."""
    torch.set_num_threads(num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _transformers_model(folder, DTYPES[data_type], device, load_format)

    @torch.inference_mode()
    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        ids = torch.tensor(prompts, device=device)
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        tokens: list[list[int]] = made[:, ids.shape[1] :].tolist()
        return tokens

    return generate


def _transformers_model(folder: Path, dtype: torch.dtype, device: torch.device, load_format: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    if load_format != "dummy":
        return auto.from_pretrained(folder, dtype=dtype).to(device).eval()
    with device:
        return auto.from_config(AutoConfig.from_pretrained(folder), dtype=dtype).eval()


def plain_torch_generate(folder: Path, data_type: str, num_threads: int, load_format: str) -> Generate:  # noqa: ARG001
    """The same sizes in plain torch; its weights are random in any case."""
    torch.set_num_threads(num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch_generate(folder, DTYPES[data_type], device)


def ctranslate2_generate(folder: Path, data_type: str, num_threads: int, load_format: str) -> Generate:
    """CTranslate2, converted from the same folder."""
    if load_format == "dummy":
        raise FasterTransformerError("--peer ctranslate2 converts weights; a shape has none")
    import ctranslate2
    from transformers import AutoTokenizer

    target = tempfile.mkdtemp(prefix="ctranslate2-")
    ctranslate2.converters.TransformersConverter(str(folder)).convert(target, force=True)
    generator = ctranslate2.Generator(
        target, compute_type=_CTRANSLATE2_TYPES[data_type], intra_threads=num_threads
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        words = [tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts]
        results = generator.generate_batch(
            words,
            max_length=count,
            min_length=count,
            sampling_topk=1,
            include_prompt_in_result=False,
            max_batch_size=len(prompts),
        )
        return [list(result.sequences_ids[0]) for result in results]

    return generate


PEERS: dict[str, Callable[[Path, str, int, str], Generate]] = {
    "torch": plain_torch_generate,
    "hf": transformers_generate,
    "ctranslate2": ctranslate2_generate,
}
RANDOM_WEIGHTS = frozenset({"torch"})
"""Peers that never read the checkpoint's."""
