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
    _write_as_the_old_service(target / "gpt" / "config.pbtxt")
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


OLD_LINES = """
name: "gpt"
default_model_filename: "gpt3_345M"
dynamic_batching { max_queue_delay_microseconds: 50000 }
batch_input [
  {
    kind: BATCH_ITEM_SHAPE
    target_name: "input_ids_item_shape"
    data_type: TYPE_INT32
    source_input: "input_ids"
  }
]
parameters { key: "int8_mode" value: { string_value: "0" } }
parameters { key: "enable_custom_all_reduce" value: { string_value: "0" } }
"""


def _write_as_the_old_service(config: Path) -> None:
    """Ragged batches of Triton's, and scalars without a dimension."""
    ids = '"input_ids" data_type: TYPE_UINT32 dims: [ -1 ]'
    text = config.read_text()
    assert ids in text
    text = text.replace(ids, f"{ids} allow_ragged_batch: true")
    config.write_text(text.replace("dims: [ 1 ]", "dims: [ 1 ] reshape: { shape: [ ] }") + OLD_LINES)


def _write_short_model(folder: Path, parameters: Mapping[str, str]) -> None:
    """A config.pbtxt that declares no tensors."""
    lines = [f'parameters {{ key: "{k}" value: {{ string_value: "{v}" }} }}' for k, v in parameters.items()]
    (folder / "1").mkdir(parents=True)
    head = 'backend: "fastertransformer"\nmax_batch_size: 8\ninstance_group [ { kind: KIND_CPU } ]\n'
    (folder / "config.pbtxt").write_text(head + "\n".join(lines))
