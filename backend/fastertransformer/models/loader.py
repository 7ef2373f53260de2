# SPDX-License-Identifier: BSD-3-Clause
"""Loads a model: family by config, sizes against the mesh, then every weight of this rank."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import EngineConfig
from ..errors import ModelLoadError
from ..layers.attention import Attention, AttentionShape
from ..layers.embedding import Embedding, Head
from ..layers.mlp import Mlp
from ..layers.norm import LayerNorm, NormLayer, RmsNorm
from ..layers.position import rope_table
from ..parallel.comm import Communicator
from ..parallel.mesh import Mesh
from ..quant.dense import DenseWeight
from ..quant.formats import FORMATS
from .checkpoint import Checkpoint, open_checkpoint
from .families import FAMILIES, SERVICE_NAMES
from .families.base import Family
from .spec import ModelSpec, Norm
from .transformer import Block, CheckpointInfo, Model
from .weights import Progress, WeightReader

_OUTER_ROLES = ("embedding", "positions", "final_norm", "head")
"""Belong to one stage, or to none: a tied head may lie in the file all the same."""

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load(
    config: EngineConfig, mesh: Mesh, group: Communicator, device: torch.device, progress: Progress
) -> Model:
    """This rank's part of the checkpoint.

    Args:
        group: the tensor-parallel ranks of this stage.
        progress: called with (tensors read, tensors in all).

    Raises:
        ModelLoadError: unknown or wrong architecture, sizes that do not divide, and every defect of the
            files; nothing is left behind.
    """
    checkpoint = open_checkpoint(config.model_checkpoint_path, config.load_format, device)
    family = find_family(config.model_type, checkpoint.config.model_type)
    spec = family.spec(checkpoint.config)
    check_mesh(spec, mesh)
    dtype, held = _DTYPES[config.data_type], FORMATS[config.int8_mode]
    reader = WeightReader(checkpoint, family, mesh, dtype, device, progress, held)
    positions = config.max_model_len or spec.max_position_embeddings
    builder = _Builder(reader, spec, mesh, group, positions, device)
    model = builder.model(checkpoint_info(checkpoint, spec), dtype)
    own, every = mesh.layers(spec.num_hidden_layers), range(spec.num_hidden_layers)
    reader.check_complete(lambda layer: layer in every and layer not in own)
    return model


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
    for name in ("num_attention_heads", "intermediate_size"):
        size = getattr(spec, name)
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


def checkpoint_info(checkpoint: Checkpoint, spec: ModelSpec) -> CheckpointInfo:
    """Token ids come from generation_config.json where it has them."""
    config, generation = checkpoint.config, checkpoint.generation
    end_ids = generation.token_ids("eos_token_id") or config.token_ids("eos_token_id")
    start_ids = config.token_ids("bos_token_id") or end_ids or (0,)
    return CheckpointInfo(
        config.model_type, spec.vocab_size, spec.max_position_embeddings, start_ids[0], end_ids
    )


@dataclass(frozen=True, slots=True)
class _Builder:
    """Puts layers together for one rank."""

    reader: WeightReader
    spec: ModelSpec
    mesh: Mesh
    group: Communicator
    num_positions: int
    device: torch.device

    def model(self, info: CheckpointInfo, dtype: torch.dtype) -> Model:
        spec, mesh = self.spec, self.mesh
        table = None if spec.rope is None else rope_table(spec.rope, self.num_positions).to(self.device)
        for role in _OUTER_ROLES:
            self.reader.expect(role)
        words = self._words()
        learned = spec.rope is None and mesh.is_first_stage
        positions = (
            self.reader.table("positions", spec.max_position_embeddings, spec.hidden_size)
            if learned
            else None
        )
        blocks = tuple(self._block(layer, table) for layer in mesh.layers(spec.num_hidden_layers))
        final_norm = self._norm("final_norm", 0) if mesh.is_last_stage else None
        head = self._head(words)
        start, stop = self.reader.share(spec.num_attention_heads)
        kv_start, kv_stop = self._kv_heads()
        return Model(
            spec=spec,
            info=info,
            dtype=dtype,
            device=self.device,
            num_heads=stop - start,
            num_kv_heads=kv_stop - kv_start,
            embedding=Embedding(words, self.group) if words is not None and mesh.is_first_stage else None,
            positions=positions,
            blocks=blocks,
            final_norm=final_norm,
            head=head,
            weight_bytes=self.reader.num_bytes,
            step_bytes=self.reader.num_bytes - self._lookup_bytes(words, positions),
        )

    def _words(self) -> Tensor | None:
        """The word table, where this stage embeds or ties its head to it."""
        if self.mesh.is_first_stage or (self.mesh.is_last_stage and self.spec.tie_word_embeddings):
            return self.reader.vocabulary("embedding", self.spec.vocab_size, self.spec.hidden_size)
        return None

    def _lookup_bytes(self, words: Tensor | None, positions: Tensor | None) -> int:
        """The word table is read whole where it is the head too."""
        is_head = self.mesh.is_last_stage and self.spec.tie_word_embeddings
        tables = (None if is_head else words, positions)
        return sum(table.nbytes for table in tables if table is not None)

    def _head(self, words: Tensor | None) -> Head | None:
        if not self.mesh.is_last_stage:
            return None
        if not self.spec.tie_word_embeddings:
            words = self.reader.vocabulary("head", self.spec.vocab_size, self.spec.hidden_size)
        assert words is not None
        return Head(DenseWeight(words), self.spec.vocab_size, self.group)

    def _block(self, layer: int, table: Tensor | None) -> Block:
        return Block(
            norm1=self._norm("norm1", layer),
            attention=self._attention(layer, table),
            norm2=self._norm("norm2", layer),
            mlp=self._mlp(layer),
            group=self.group,
        )

    def _norm(self, role: str, layer: int) -> NormLayer:
        weight = self.reader.vector(role, ".weight", self.spec.hidden_size, layer)
        if self.spec.norm is Norm.RMS:
            return RmsNorm(weight, self.spec.norm_eps)
        bias = self.reader.vector(role, ".bias", self.spec.hidden_size, layer)
        return LayerNorm(weight, bias, self.spec.norm_eps)

    def _attention(self, layer: int, table: Tensor | None) -> Attention:
        spec, dim = self.spec, self.spec.head_dim
        q, kv = self.reader.share(spec.num_attention_heads), self._kv_heads()
        q_rows = ("q", spec.num_attention_heads * dim, q[0] * dim, q[1] * dim)
        kv_rows = (spec.num_key_value_heads * dim, kv[0] * dim, kv[1] * dim)
        parts = [q_rows, ("k", *kv_rows), ("v", *kv_rows)]
        shape = AttentionShape(
            num_heads=q[1] - q[0],
            num_kv_heads=kv[1] - kv[0],
            head_dim=dim,
            scale=dim**-0.5,
            window=spec.window(layer),
        )
        return Attention(
            shape,
            self.reader.column_parallel(parts, spec.hidden_size, "qkv", layer, spec.qkv_bias),
            self.reader.row_parallel(
                "output", spec.hidden_size, q_rows[1], q_rows[2:], layer, spec.output_bias
            ),
            table,
            self._head_norm("q_norm", layer),
            self._head_norm("k_norm", layer),
        )

    def _head_norm(self, role: str, layer: int) -> RmsNorm | None:
        if not self.spec.qk_norm:
            return None
        return RmsNorm(self.reader.vector(role, ".weight", self.spec.head_dim, layer), self.spec.norm_eps)

    def _kv_heads(self) -> tuple[int, int]:
        """Ranks beyond the number of key-value heads repeat them."""
        heads, ranks = self.spec.num_key_value_heads, self.mesh.tp_size
        if heads >= ranks:
            return self.reader.share(heads)
        mine = self.mesh.tp_rank // (ranks // heads)
        return mine, mine + 1

    def _mlp(self, layer: int) -> Mlp:
        spec, size = self.spec, self.spec.intermediate_size
        share = self.reader.share(size)
        roles = ("gate", "up") if spec.gated_mlp else ("up",)
        parts = [(role, size, *share) for role in roles]
        return Mlp(
            self.reader.column_parallel(parts, spec.hidden_size, "gate_up", layer, spec.mlp_bias),
            self.reader.row_parallel("down", spec.hidden_size, size, share, layer, spec.mlp_bias),
            spec.activation,
            spec.gated_mlp,
        )
