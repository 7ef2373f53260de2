# SPDX-License-Identifier: BSD-3-Clause
"""The peer `ctranslate2`: CTranslate2, converted from the same folder, or from random weights."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .workload import Workload

_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_MAX_INPUT_LEN = 1 << 20
"""Longer than any: nothing is cut off."""


def continue_with_ctranslate2(
    folder: Path, data_type: str, num_threads: int, load_format: str
) -> Callable[[Workload], list[list[int]]]:
    kind = ("Generator", "AutoModelForCausalLM")
    generator, tokenizer = _loaded(*kind, folder, data_type, num_threads, load_format)

    def generate(workload: Workload, words: list[list[str]]) -> list[list[int]]:
        results = generator.generate_batch(
            words,
            max_length=workload.output_len,
            min_length=workload.output_len,
            include_prompt_in_result=False,
            **_search(workload),
        )
        return [list(result.sequences_ids[0]) for result in results]

    return _in_words(tokenizer, generate)


def translate_with_ctranslate2(
    folder: Path, data_type: str, num_threads: int, load_format: str
) -> Callable[[Workload], list[list[int]]]:
    kind = ("Translator", "AutoModelForSeq2SeqLM")
    translator, tokenizer = _loaded(*kind, folder, data_type, num_threads, load_format)

    def generate(workload: Workload, words: list[list[str]]) -> list[list[int]]:
        results = translator.translate_batch(
            words,
            max_input_length=_MAX_INPUT_LEN,
            max_decoding_length=workload.output_len,
            min_decoding_length=workload.output_len,
            **_search(workload),
        )
        return [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]

    return _in_words(tokenizer, generate)


def _search(workload: Workload) -> dict[str, Any]:
    """Where lengths differ, a callback ends each row at its own, and leaves the others the batch."""
    lens = workload.output_lens
    options: dict[str, Any] = {"beam_size": workload.beam_width, "max_batch_size": workload.batch}
    if workload.shortest_output:
        options["callback"] = lambda step: step.step + 1 >= lens[step.batch_id]
    return options


def _in_words(
    tokenizer: Any, generate: Callable[[Workload, list[list[str]]], list[list[int]]]
) -> Callable[[Workload], list[list[int]]]:
    """It takes words instead of ids."""

    def run(workload: Workload) -> list[list[int]]:
        words = [tokenizer.convert_ids_to_tokens(prompt) for prompt in workload.prompts()]
        made = generate(workload, words)
        return [row[:length] for row, length in zip(made, workload.output_lens, strict=True)]

    return run


def _loaded(
    engine: str, auto: str, folder: Path, data_type: str, num_threads: int, load_format: str
) -> tuple[Any, Any]:
    """(`engine` of CTranslate2, tokenizer); what was written on the way to them is gone."""
    import ctranslate2
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="ctranslate2-") as scratch:
        source, target = folder, str(Path(scratch) / "converted")
        if load_format == "dummy":
            source = _random(auto, folder, Path(scratch) / "random")
        ctranslate2.converters.TransformersConverter(str(source)).convert(target)
        make = getattr(ctranslate2, engine)
        model = make(target, compute_type=_TYPES[data_type], intra_threads=num_threads)
        return model, AutoTokenizer.from_pretrained(source)


def _random(auto: str, folder: Path, target: Path) -> Path:
    """Random weights in the sizes of `folder`, and a vocabulary of numbers."""
    import transformers
    from tokenizers import Tokenizer, models

    from .transformers_peers import random_or_read

    model = random_or_read(getattr(transformers, auto), folder, torch.float32, torch.device("cpu"), "dummy")
    model.save_pretrained(target)
    words = {f"<{i}>": i for i in range(model.config.vocab_size)}
    numbers = Tokenizer(models.WordLevel(words, unk_token="<0>"))
    special = dict.fromkeys(("unk_token", "pad_token", "bos_token", "eos_token"), "<0>")
    tokenizer: Any = transformers.PreTrainedTokenizerFast
    tokenizer(tokenizer_object=numbers, **special).save_pretrained(target)
    return target
