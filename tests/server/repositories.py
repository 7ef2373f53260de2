# SPDX-License-Identifier: BSD-3-Clause
"""Model repositories from the templates, with caches that fit a test."""

from collections.abc import Mapping
from pathlib import Path

from fastertransformer.server import repository

TEMPLATES = Path(__file__).resolve().parents[2] / "model_repository"
SMALL_CACHE = {"max_tokens_in_paged_kv_cache": "40960", "num_threads": "1"}


def write_model(
    target: Path, checkpoint: Path, source: str, name: str = "", template: str = "decoder", **slots: str
) -> None:
    """One model of the template, under another name if `name` is given."""
    values = {"CHECKPOINT": str(checkpoint), "TOKENIZER": str(checkpoint), "CONTRACT": "llama", **slots}
    repository.write(TEMPLATES / template, target, values, SMALL_CACHE, [source])
    if name:
        (target / source).rename(target / name)
        config = target / name / "config.pbtxt"
        config.write_text(config.read_text().replace(f'name: "{source}"', f'name: "{name}"', 1))


def write_repository(target: Path, llama: Path, gpt2: Path) -> Path:
    """Everything that the shared server serves: two engines."""
    write_model(target, gpt2, "fastertransformer", "gpt", CONTRACT="gpt")
    write_model(target, llama, "fastertransformer", "streaming", DECOUPLED="true")
    write_model(target, llama, "text", "text_once", TEXT_DECOUPLED="false")
    write_model(target, llama, "text")
    write_model(target, llama, "fastertransformer", INSTANCES="2")
    for model in ("preprocessing", "postprocessing", "ensemble"):
        write_model(target, llama, model)
    _write_short_model(target / "short", {"model_checkpoint_path": str(llama), **SMALL_CACHE})
    return target


def _write_short_model(folder: Path, parameters: Mapping[str, str]) -> None:
    """A config.pbtxt that declares no tensors."""
    lines = [f'parameters {{ key: "{k}" value: {{ string_value: "{v}" }} }}' for k, v in parameters.items()]
    (folder / "1").mkdir(parents=True)
    head = 'backend: "fastertransformer"\nmax_batch_size: 8\ninstance_group [ { kind: KIND_CPU } ]\n'
    (folder / "config.pbtxt").write_text(head + "\n".join(lines))
