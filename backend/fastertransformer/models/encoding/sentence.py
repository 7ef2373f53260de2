# SPDX-License-Identifier: BSD-3-Clause
"""How a checkpoint's tokens become a sentence embedding: the modules.json of sentence-transformers."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ...errors import ModelLoadError
from ...layers.heads import Dense, Pool, SentenceEmbedding
from ...layers.linear import Linear
from ...quant.dense import DenseWeight
from ..checkpoint.huggingface import read_json, read_json_list, weight_files
from ..checkpoint.weight_files import open_weights
from ..hf_config import HFConfig

_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
}


def read_sentence(folder: Path, hidden_size: int, device: torch.device) -> tuple[SentenceEmbedding, int]:
    """The modules behind the transformer, and the width of what they yield.

    Without modules.json it is the mean of all tokens, as sentence-transformers has it for such folders.

    Raises:
        ModelLoadError: a module or a setting that is not supported; names it.
    """
    file = folder / "modules.json"
    modules = read_json_list(file) if file.exists() else []
    pools: Sequence[Pool] = (Pool.MEAN,)
    layers: list[Dense] = []
    width, normalised = hidden_size, False
    for entry in modules:
        module = HFConfig(entry, str(file))
        kind, place = module.text("type").rpartition(".")[2], folder / module.text("path", "")
        if kind == "Pooling":
            pools = _pools(place / "config.json")
            width = hidden_size * len(pools)
        elif kind == "Dense":
            layer, width = _dense(place, width, device)
            layers.append(layer)
        elif kind == "Normalize":
            normalised = True
        elif kind != "Transformer":
            raise ModelLoadError(f"{file}: module {kind} is not supported")
    return SentenceEmbedding(pools, layers, normalised), width


def _pools(file: Path) -> Sequence[Pool]:
    prefix = "pooling_mode_"
    config = HFConfig(read_json(file), str(file))
    wanted = [key.removeprefix(prefix) for key in config if key.startswith(prefix) and config.flag(key)]
    known = {pool.value: pool for pool in Pool}
    for name in wanted:
        if name not in known:
            raise ModelLoadError(f"{file}: {prefix}{name} is not supported; supported are {', '.join(known)}")
    # Side by side in the order of sentence-transformers, which is that of Pool.
    return [pool for pool in Pool if pool.value in wanted] or [Pool.MEAN]


def _dense(folder: Path, columns: int, device: torch.device) -> tuple[Dense, int]:
    """In float32, as what was pooled."""
    file = folder / "config.json"
    config = HFConfig(read_json(file), str(file))
    weights = weight_files(folder)[0]
    stored = open_weights(weights)
    tensors = {name: stored.read(name).to(device).float() for name in stored.names}
    rows = config.integer("out_features")
    if "linear.weight" not in tensors:
        raise ModelLoadError(f"{weights} has no linear.weight, only {', '.join(tensors)}")
    if tensors["linear.weight"].shape != (rows, columns):
        raise ModelLoadError(
            f"{weights}: linear.weight has shape {list(tensors['linear.weight'].shape)};"
            f" expected {[rows, columns]}"
        )
    kind = config.choice("activation_function", _ACTIVATIONS, "torch.nn.modules.activation.Tanh")
    return Dense(Linear(DenseWeight(tensors["linear.weight"]), tensors.get("linear.bias")), kind, None), rows
