# SPDX-License-Identifier: BSD-3-Clause
"""Loads a model: family by config, sizes against the mesh, then every weight of this rank."""

from pathlib import Path

import torch

from ..config import EngineConfig
from ..errors import ModelLoadError
from ..parallel.comm import Communicator
from ..parallel.mesh import Mesh
from ..quant.formats import FORMATS
from .builder import Builder
from .checkpoint import Checkpoint, open_checkpoint
from .data_types import DTYPES
from .encoding.builder import EncoderBuilder
from .encoding.model import EncoderModel, base_outputs
from .encoding.sentence import read_sentence
from .encoding.spec import EncodingSpec
from .families import ENCODER_ALONE, ENCODERS, FAMILIES, SERVICE_NAMES
from .families.base import Family
from .spec import ModelSpec
from .spec_check import check_spec
from .transformer import CheckpointInfo, Model
from .weights import Progress, WeightReader


def load(
    config: EngineConfig, mesh: Mesh, group: Communicator, device: torch.device, progress: Progress
) -> Model | EncoderModel:
    """This rank's part of the checkpoint.

    Args:
        group: the tensor-parallel ranks of this stage.
        progress: called with (tensors read, tensors in all).

    Raises:
        ModelLoadError: unknown or wrong architecture, sizes that do not divide, and every defect of the
            files; nothing is left behind.
    """
    checkpoint = open_checkpoint(config.model_checkpoint_path, config.load_format, device)
    family = family_of(checkpoint, config.model_type)
    dtype = DTYPES[config.data_type]
    spec = read_spec(checkpoint, family)
    spec = spec.in_half() if dtype is torch.float16 else spec
    check_mesh(spec, mesh)
    held = FORMATS[config.int8_mode]
    reader = WeightReader(checkpoint, family, mesh, dtype, device, progress, held)
    # What is beyond the model's own is refused later, and is not to take memory first.
    positions = min(config.max_model_len or spec.max_position_embeddings, spec.max_position_embeddings)
    common = (reader, spec, family.qkv_layout, mesh, group, positions, dtype, device)
    info = checkpoint_info(checkpoint, spec)
    model: Model | EncoderModel
    encoding = read_encoding(checkpoint, family)
    if encoding is None:
        model = Builder(*common).model(info)
    else:
        sentence = read_sentence(Path(config.model_checkpoint_path), spec.hidden_size, device)
        model = EncoderBuilder(*common, encoding, *sentence).encoder_model(info)
    own, every = mesh.layers(spec.num_hidden_layers), range(spec.num_hidden_layers)
    reader.check_complete(lambda layer: layer in every and layer not in own)
    return model


def encodes(config: EngineConfig) -> bool:
    """Whether the model encodes and does not generate. Raises: ModelLoadError: as `family_of`."""
    checkpoint = open_checkpoint(config.model_checkpoint_path, config.load_format)
    return family_of(checkpoint, config.model_type).encoding is not None


def encoding_outputs(checkpoint: Checkpoint, model_type: str = "") -> tuple[str, ...]:
    """What a model that encodes gives; nothing where it generates.

    Raises:
        ModelLoadError: as `load`, as far as configurations and names of tensors go.
    """
    family = family_of(checkpoint, model_type)
    encoding = read_encoding(checkpoint, family)
    if encoding is None:
        return ()
    reader = WeightReader(
        checkpoint, family, Mesh(), torch.float32, torch.device("cpu"), lambda *_: None, FORMATS[0]
    )
    return (*base_outputs(encoding), *(head.output for head in encoding.present(reader.has)))


def read_spec(checkpoint: Checkpoint, family: Family) -> ModelSpec:
    """Raises: ModelLoadError: a field of the checkpoint's configuration is missing or wrong."""
    spec = family.spec(checkpoint.config.renamed(family.config_names))
    check_spec(spec, checkpoint.config.source)
    return spec


def read_encoding(checkpoint: Checkpoint, family: Family) -> EncodingSpec | None:
    """What a model that encodes is beside its spec; None where it generates."""
    if family.encoding is None:
        return None
    return family.encoding(checkpoint.config.renamed(family.config_names))


def family_of(checkpoint: Checkpoint, wanted: str) -> Family:
    """The family; of an encoder-decoder its encoder, where that alone is asked for or there.

    Raises:
        ModelLoadError: as find_family.
    """
    found, architectures = checkpoint.config.model_type, checkpoint.config.texts("architectures")
    family = find_family(wanted, found)
    is_alone = wanted.lower() == ENCODER_ALONE or any("EncoderModel" in name for name in architectures)
    return family_for(found, True) if is_alone else family


def family_for(model_type: str, is_encoder: bool) -> Family:
    """Args: is_encoder: of an encoder-decoder take the encoder alone."""
    family = FAMILIES[model_type]
    return ENCODERS.get(model_type, family) if is_encoder else family


def find_family(wanted: str, found: str) -> Family:
    """The family of the checkpoint, if it is the one that was asked for.

    Args:
        wanted: parameter model_type in any case; empty takes what the checkpoint is.
        found: model_type of the checkpoint.
    """
    name = wanted.lower()
    supported = f"supported are {', '.join(sorted(FAMILIES.keys() | SERVICE_NAMES.keys()))}"
    if name and name not in FAMILIES and name not in SERVICE_NAMES:
        raise ModelLoadError(f"parameter model_type is {wanted!r}; {supported}")
    if found not in FAMILIES:
        raise ModelLoadError(f"the checkpoint is a {found!r}; {supported}")
    if name and found not in SERVICE_NAMES.get(name, frozenset({name})):
        raise ModelLoadError(f"parameter model_type is {wanted!r}, but the checkpoint is a {found!r}")
    return FAMILIES[found]


def check_mesh(spec: ModelSpec, mesh: Mesh) -> None:
    """Raises: ModelLoadError: a size does not divide by the number of ranks; names both."""
    tp, pp = mesh.tp_size, mesh.pp_size
    for name, size in _split_sizes(spec).items():
        if size % tp:
            raise ModelLoadError(f"{name} {size} is not divisible by tensor_para_size {tp}")
    kv_heads = spec.num_key_value_heads
    if kv_heads % tp and tp % kv_heads:
        raise ModelLoadError(
            f"num_key_value_heads {kv_heads} can neither be split nor repeated over tensor_para_size {tp}"
        )
    if spec.num_hidden_layers < pp:
        raise ModelLoadError(
            f"num_hidden_layers {spec.num_hidden_layers} is less than pipeline_para_size {pp}"
        )


def _split_sizes(spec: ModelSpec) -> dict[str, int]:
    """What every rank gets the same share of."""
    sizes = {"num_attention_heads": spec.num_attention_heads, "intermediate_size": spec.intermediate_size}
    if spec.adapter is not None:
        sizes["size of an adapter"] = spec.adapter.intermediate_size
    if spec.moe is not None:
        sizes["intermediate size of an expert"] = spec.moe.intermediate_size
        sizes["intermediate size of the shared expert"] = spec.moe.shared_intermediate_size
    if spec.encoder is not None:
        sizes |= {f"{name} of the encoder": size for name, size in _split_sizes(spec.encoder).items()}
    return sizes


def checkpoint_info(checkpoint: Checkpoint, spec: ModelSpec) -> CheckpointInfo:
    """Token ids come from generation_config.json where it has them.

    Some checkpoints name an end that the vocabulary lacks: it never comes, and nothing may look it up.
    """
    config, generation = checkpoint.config, checkpoint.generation

    def named(key: str) -> tuple[int, ...]:
        return generation.token_ids(key) or config.token_ids(key)

    end_ids = tuple(token for token in named("eos_token_id") if 0 <= token < spec.vocab_size)
    start_ids = named("decoder_start_token_id") or named("bos_token_id") or end_ids or (0,)
    return CheckpointInfo(
        config.model_type,
        spec.vocab_size,
        spec.max_position_embeddings,
        start_ids[0],
        end_ids,
        named("forced_bos_token_id"),
    )
