# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer check`: whether a checkpoint can be served, and what it would take."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import Progress
from rich.table import Table

from .. import config as configuration
from ..config import EngineConfig, ParallelConfig
from ..models import EncoderModel, Model, load
from ..parallel.comm import SingleRank
from ..parallel.mesh import Mesh
from ..runtime.device import choose_device
from .console import errors, output

_MIB = 1 << 20


def check(
    path: Annotated[
        Path,
        typer.Argument(help="Hugging Face folder, FasterTransformer's own or GGUF file.", show_default=False),
    ],
    tensor_para_size: Annotated[int, typer.Option(help="Ranks that share every layer.")] = 1,
    pipeline_para_size: Annotated[int, typer.Option(help="Ranks that take layers in turn.")] = 1,
    data_type: Annotated[str, typer.Option(help="fp32, fp16, bf16 or auto.")] = "auto",
) -> None:
    """Read every weight of a checkpoint as each rank would, and print what it needs."""
    parallel = ParallelConfig(tensor_para_size=tensor_para_size, pipeline_para_size=pipeline_para_size)
    engine_config = EngineConfig(model_checkpoint_path=str(path), data_type=data_type, parallel=parallel)
    configuration.check(engine_config)
    engine_config = configuration.on_device(engine_config, choose_device(engine_config.device).type)
    ranks = [_load(engine_config, rank) for rank in range(parallel.world_size)]
    output.print(_facts(ranks[0], engine_config))
    output.print(_ranks(ranks))


def _load(engine_config: EngineConfig, rank: int) -> Model | EncoderModel:
    """One rank's part; nothing is computed, so it needs no other rank."""
    parallel = engine_config.parallel
    mesh = Mesh(parallel.tensor_para_size, parallel.pipeline_para_size, rank)
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task(f"reading the weights of rank {rank}", total=None)
        return load(
            engine_config,
            mesh,
            SingleRank(),
            torch.device("cpu"),
            lambda done, total: progress.update(task, completed=done, total=total),
        )


def _facts(model: Model | EncoderModel, engine_config: EngineConfig) -> Table:
    spec, info = model.spec, model.info
    table = Table(title=f"{engine_config.model_checkpoint_path} can be served", show_header=False)
    rows = {
        "family": info.model_type,
        "data type": engine_config.data_type,
        "layers": spec.num_hidden_layers,
        "hidden size": spec.hidden_size,
        "heads": f"{spec.num_attention_heads}, {spec.num_key_value_heads} for keys, {spec.head_dim} wide",
        "intermediate size": spec.intermediate_size,
        "vocabulary": spec.vocab_size,
        "positions": spec.max_position_embeddings,
        **_purpose(model),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _purpose(model: Model | EncoderModel) -> dict[str, str]:
    if isinstance(model, EncoderModel):
        return {"encodes to": ", ".join(model.outputs)}
    info = model.info
    return {"start id, end ids": f"{info.start_id}, {', '.join(map(str, info.end_ids)) or 'none'}"}


def _ranks(ranks: list[Model | EncoderModel]) -> Table:
    table = Table(title="Memory of each rank")
    for column in ("rank", "layers", "weights MiB", "KV cache KiB per token"):
        table.add_column(column, justify="right")
    for rank, model in enumerate(ranks):
        per_token = torch.Size(model.kv_cache_shape(1, 1)).numel() * model.dtype.itemsize
        weights = f"{model.weight_bytes / _MIB:.1f}"
        table.add_row(str(rank), str(len(model.blocks)), weights, f"{per_token / 1024:.1f}")
    return table
