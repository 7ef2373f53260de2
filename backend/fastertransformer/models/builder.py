# SPDX-License-Identifier: BSD-3-Clause
"""Puts the layers of one rank together: reads every field of a spec once, and every weight."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.attention import Attention, AttentionShape
from ..layers.embedding import Embedding, Head
from ..layers.linear import Linear
from ..layers.mlp import Mlp
from ..layers.moe import MoeMlp, Router, SharedExpert
from ..layers.norm import LayerNorm, NormLayer, RmsNorm
from ..layers.position import RopeSpec, rope_table, sinusoidal_table
from ..parallel.comm import Communicator
from ..parallel.mesh import Mesh
from ..quant.dense import DenseWeight
from .block import TOPOLOGIES, Block
from .families.layouts import Layout
from .spec import ModelSpec, MoeSpec, Norm, Positions
from .transformer import CheckpointInfo, Model
from .weights import OUTSIDE, Fused, Part, Place, WeightReader

_OUTER_ROLES = (
    "embedding",
    "project_in",
    "positions",
    "embedding_norm",
    "final_norm",
    "project_out",
    "head",
)
"""Belong to one stage, or to none: a tied head may lie in the file all the same."""


@dataclass(frozen=True, slots=True)
class Builder:
    """One rank's part of a model."""

    reader: WeightReader
    spec: ModelSpec
    qkv_layout: Layout
    mesh: Mesh
    group: Communicator
    num_positions: int
    """Of the rotary tables."""
    dtype: torch.dtype
    device: torch.device

    def model(self, info: CheckpointInfo) -> Model:
        spec, first, last = self.spec, self.mesh.is_first_stage, self.mesh.is_last_stage
        for role in _OUTER_ROLES:
            self.reader.expect(role)
        words = self._words()
        positions = self._positions() if first else None
        own_layers = self.mesh.layers(spec.num_hidden_layers)
        tables = self._rope_tables(own_layers)
        blocks = tuple(self._block(layer, tables) for layer in own_layers)
        start, stop = self.reader.share(spec.num_attention_heads)
        kv_start, kv_stop = self._kv_heads()
        return Model(
            spec=spec,
            info=info,
            dtype=self.dtype,
            device=self.device,
            num_heads=stop - start,
            num_kv_heads=kv_stop - kv_start,
            embedding=self._embedding(words) if first else None,
            project_in=self._projection("project_in") if first else None,
            positions=positions,
            embedding_norm=self._layer_norm("embedding_norm") if first and spec.embedding_norm else None,
            blocks=blocks,
            final_norm=self._layer_norm("final_norm") if last and spec.final_norm else None,
            project_out=self._projection("project_out") if last else None,
            head=self._head(words) if last else None,
            weight_bytes=self.reader.num_bytes,
            step_bytes=self.reader.num_bytes - self._lookup_bytes(words, positions),
        )

    # What lies around the blocks

    def _words(self) -> Tensor | None:
        """The word table, where this stage embeds or ties its head to it."""
        if self.mesh.is_first_stage or (self.mesh.is_last_stage and self.spec.tie_word_embeddings):
            return self._vocabulary("embedding")
        return None

    def _vocabulary(self, role: str) -> Tensor:
        columns = self.spec.embedding_size or self.spec.hidden_size
        return self.reader.vocabulary(role, ".weight", self.spec.vocab_size, columns)

    def _embedding(self, words: Tensor | None) -> Embedding:
        """The factor has the data type of the weights, as where such models were trained."""
        assert words is not None
        scale = torch.tensor(self.spec.embedding_scale, dtype=self.dtype).item()
        return Embedding(words, self.group, scale)

    def _projection(self, role: str) -> Linear | None:
        outer, inner = self.spec.embedding_size, self.spec.hidden_size
        if not outer:
            return None
        rows, columns = (inner, outer) if role == "project_in" else (outer, inner)
        return Linear(DenseWeight(self.reader.table(role, rows, columns)), None)

    def _positions(self) -> Tensor | None:
        """[P, H] what is added to the embeddings."""
        count, width, offset = (
            self.spec.max_position_embeddings,
            self.spec.hidden_size,
            self.spec.position_offset,
        )
        if self.spec.positions is Positions.LEARNED:
            return self.reader.table("positions", count, width, offset)
        if self.spec.positions is Positions.SINUSOIDAL:
            return sinusoidal_table(count, width, offset).to(self.device, self.dtype)
        return None

    def _head(self, words: Tensor | None) -> Head:
        if not self.spec.tie_word_embeddings:
            words = self._vocabulary("head")
        assert words is not None
        size, bias = self.spec.vocab_size, None
        if self.spec.head_bias:
            bias = self.reader.vocabulary("head", ".bias", size, 0).float()
        return Head(DenseWeight(words), size, self.group, bias, self.spec.logits_soft_cap)

    def _lookup_bytes(self, words: Tensor | None, positions: Tensor | None) -> int:
        """The word table is read whole where it is the head too."""
        is_head = self.mesh.is_last_stage and self.spec.tie_word_embeddings
        tables = (None if is_head else words, positions)
        return sum(table.nbytes for table in tables if table is not None)

    # Blocks

    def _rope_tables(self, layers: range) -> dict[RopeSpec | None, Tensor | None]:
        """One for each kind that these layers have."""
        ropes = {self.spec.rope_of(layer) for layer in layers}
        return {
            rope: None if rope is None else rope_table(rope, self.num_positions).to(self.device)
            for rope in ropes
        }

    def _block(self, layer: int, rope_tables: dict[RopeSpec | None, Tensor | None]) -> Block:
        topology, moe, place = TOPOLOGIES[self.spec.residual], self.spec.moe_of(layer), Place(layer)
        return Block(
            topology=topology,
            norms={role: self._layer_norm(role, place) for role in topology.norms},
            attention=self._attention(place, rope_tables[self.spec.rope_of(layer)]),
            mlp=self._mlp(place) if moe is None else self._moe(place, moe),
            group=self.group,
            adapters={role: self._adapter(role, place) for role in topology.adapters},
        )

    def _layer_norm(self, role: str, place: Place = OUTSIDE) -> NormLayer:
        return self._norm(role, self.spec.norm, self.spec.hidden_size, place)

    def _norm(self, role: str, norm: Norm, size: int, place: Place) -> NormLayer:
        """What the checkpoint does not have is neutral."""
        spec, neutral = self.spec, torch.zeros(size, dtype=self.dtype, device=self.device)
        weight = self.reader.vector(role, ".weight", size, place) if spec.norm_weight else neutral + 1
        weight += spec.norm_offset
        if norm is Norm.RMS:
            return RmsNorm(weight, spec.norm_eps)
        bias = self.reader.vector(role, ".bias", size, place) if spec.norm_bias else neutral
        return LayerNorm(weight, bias, spec.norm_eps)

    def _attention(self, place: Place, rope_table: Tensor | None) -> Attention:
        spec, dim, rope = self.spec, self.spec.head_dim, self.spec.rope_of(place.layer)
        q, kv = self.reader.share(spec.num_attention_heads), self._kv_heads()
        shape = AttentionShape(
            num_heads=q[1] - q[0],
            num_kv_heads=kv[1] - kv[0],
            head_dim=dim,
            scale=spec.attention_scale or dim**-0.5,
            window=spec.window_of(place.layer),
            soft_cap=spec.attention_soft_cap,
            qkv_limit=spec.qkv_limit,
            interleaved=rope is not None and rope.interleaved,
        )
        columns, own = spec.num_attention_heads * dim, (q[0] * dim, q[1] * dim)
        return Attention(
            shape,
            self._qkv(place, q, kv),
            self.reader.row_parallel("output", spec.hidden_size, columns, own, place, spec.output_bias),
            rope_table,
            self._alibi_slopes(q),
            self._head_norm("q_norm", place),
            self._head_norm("k_norm", place),
        )

    def _qkv(self, place: Place, q: tuple[int, int], kv: tuple[int, int]) -> Linear:
        spec, dim = self.spec, self.spec.head_dim
        counts = {"q": spec.num_attention_heads, "k": spec.num_key_value_heads, "v": spec.num_key_value_heads}
        heads = {"q": q, "k": kv, "v": kv}
        parts = [
            Part(role, counts[role] * dim, start * dim, stop * dim) for role, (start, stop) in heads.items()
        ]
        places = [self.qkv_layout(spec, role, head) for role in heads for head in range(*heads[role])]
        rows = (torch.tensor(places)[:, None] * dim + torch.arange(dim)).flatten()
        return self.reader.column_parallel(parts, spec.hidden_size, Fused("qkv", rows), place, spec.qkv_bias)

    def _alibi_slopes(self, heads: tuple[int, int]) -> Tensor | None:
        """[N] float32 of this rank's heads."""
        slopes = self.spec.alibi_slopes[slice(*heads)]
        return torch.tensor(slopes, dtype=torch.float32, device=self.device) if slopes else None

    def _head_norm(self, role: str, place: Place) -> NormLayer | None:
        norm = self.spec.qk_norm
        return None if norm is None else self._norm(role, norm, self.spec.head_dim, place)

    def _kv_heads(self) -> tuple[int, int]:
        """Ranks beyond the number of key-value heads repeat them."""
        heads, ranks = self.spec.num_key_value_heads, self.mesh.tp_size
        if heads >= ranks:
            return self.reader.share(heads)
        mine = self.mesh.tp_rank // (ranks // heads)
        return mine, mine + 1

    def _mlp(self, place: Place) -> Mlp:
        return self._feed_forward("", self.spec.intermediate_size, place)

    def _adapter(self, role: str, place: Place) -> Mlp:
        return self._feed_forward(role + "_", self.spec.adapter_size, place)

    def _moe(self, place: Place, moe: MoeSpec) -> MoeMlp:
        weight = self.reader.table("router", moe.num_experts, self.spec.hidden_size, place=place)
        router = Router(DenseWeight(weight.float()), moe.num_experts_per_tok, moe.normalised)
        experts = [
            self._feed_forward("expert_", moe.intermediate_size, Place(place.layer, expert))
            for expert in range(moe.num_experts)
        ]
        return MoeMlp(router, experts, self._shared_expert(place, moe))

    def _shared_expert(self, place: Place, moe: MoeSpec) -> SharedExpert | None:
        if not moe.shared_intermediate_size:
            return None
        mlp = self._feed_forward("shared_", moe.shared_intermediate_size, place)
        return SharedExpert(mlp, self.reader.table("shared_router", 1, self.spec.hidden_size, place=place))

    def _feed_forward(self, prefix: str, size: int, place: Place) -> Mlp:
        """An MLP whose roles begin with `prefix`."""
        spec, share = self.spec, self.reader.share(size)
        roles = ("gate", "up") if spec.gated_mlp else ("up",)
        parts = [Part(prefix + role, size, *share) for role in roles]
        rows = torch.cat([index * size + torch.arange(*share) for index in range(len(roles))])
        fused = Fused(prefix + "gate_up", rows)
        return Mlp(
            self.reader.column_parallel(parts, spec.hidden_size, fused, place, spec.mlp_bias),
            self.reader.row_parallel(prefix + "down", spec.hidden_size, size, share, place, spec.mlp_bias),
            spec.activation,
            spec.gated_mlp,
        )
