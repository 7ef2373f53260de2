# SPDX-License-Identifier: BSD-3-Clause
"""Model repositories from the templates, with caches that fit a test."""

from collections.abc import Mapping
from pathlib import Path

from fastertransformer.server import repository

TEMPLATES = Path(__file__).resolve().parents[2] / "model_repository"
SMALL_CACHE = {"max_tokens_in_paged_kv_cache": "40960", "num_threads": "1"}


def write_model(
    target: Path,
    checkpoint: Path,
    source: str,
    name: str = "",
    template: str = "decoder",
    instances: int = 1,
    decoupled: bool | None = None,
    **parameters: str,
) -> None:
    """One model of a template, under another name if `name` is given."""
    paths = {"model_checkpoint_path": str(checkpoint), "tokenizer_dir": str(checkpoint), "data_type": "fp32"}
    streams = {} if decoupled is None else {name or source: decoupled}
    values = paths | SMALL_CACHE | parameters
    repository.write(TEMPLATES / template, target, {name or source: source}, values, instances, streams)


def write_repository(target: Path, llama: Path, gpt2: Path) -> Path:
    """Everything that the shared server serves: two engines."""
    write_model(target, gpt2, "fastertransformer", "gpt")
    write_model(target, llama, "fastertransformer", "streaming", decoupled=True)
    write_model(target, llama, "text", "text_once", decoupled=False)
    write_model(target, llama, "text")
    write_model(target, llama, "fastertransformer", instances=2)
    for model in ("preprocessing", "postprocessing", "ensemble"):
        write_model(target, llama, model)
    for model in ("tensorrt_llm", "tensorrt_llm_bls"):
        write_model(target, llama, model, template="tensorrt_llm")
    _write_short_model(target / "short", {"model_checkpoint_path": str(llama), **SMALL_CACHE})
    return target


def _write_short_model(folder: Path, parameters: Mapping[str, str]) -> None:
    """A config.pbtxt that declares no tensors."""
    lines = [f'parameters {{ key: "{k}" value: {{ string_value: "{v}" }} }}' for k, v in parameters.items()]
    (folder / "1").mkdir(parents=True)
    head = 'backend: "fastertransformer"\nmax_batch_size: 8\ninstance_group [ { kind: KIND_CPU } ]\n'
    (folder / "config.pbtxt").write_text(head + "\n".join(lines))
