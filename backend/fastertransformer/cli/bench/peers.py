# SPDX-License-Identifier: BSD-3-Clause
"""A peer's process: `python -m fastertransformer.cli.bench.peers NAME FOLDER DATA_TYPE THREADS`.

Reads a Workload as a line of JSON, generates, writes a Measurement. Time to the first token is measured
by generating one token; the rest is spread evenly over the other tokens.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from ...errors import FasterTransformerError
from .workload import Measurement, Workload, measure

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, new tokens of each) -> the new tokens"""

_TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_CTRANSLATE2_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def transformers_generate(folder: Path, data_type: str, num_threads: int) -> Generate:
    """Hugging Face transformers, greedy, on the GPU if there is one."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(num_threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=_TORCH_TYPES[data_type])
    model.to(device).eval()

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


def ctranslate2_generate(folder: Path, data_type: str, num_threads: int) -> Generate:
    """CTranslate2, converted from the same folder."""
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


PEERS: dict[str, Callable[[Path, str, int], Generate]] = {
    "hf": transformers_generate,
    "ctranslate2": ctranslate2_generate,
}


def run(generate: Generate, workload: Workload) -> Measurement:
    """Times one token, then all of them."""
    prompts = workload.prompts()
    start = time.perf_counter()
    generate(prompts, 1)
    first = time.perf_counter() - start
    start = time.perf_counter()
    tokens = generate(prompts, workload.output_len)
    total = time.perf_counter() - start
    if any(len(made) != workload.output_len for made in tokens):
        raise FasterTransformerError("the peer stopped early; its figures would not compare")
    step = (total - first) / max(workload.output_len - 1, 1)
    times = [first + step * i for i in range(workload.output_len)]
    return measure([times] * workload.batch, tokens)


def main() -> None:
    name, folder, data_type, num_threads = sys.argv[1:]
    generate = PEERS[name](Path(folder), data_type, int(num_threads))
    for line in sys.stdin.buffer:
        result = run(generate, msgspec.json.decode(line, type=Workload))
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
