# SPDX-License-Identifier: BSD-3-Clause
"""Puts the layers of one stack together, a decoder's or an encoder's: one rank's part of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate

import torch
from torch import Tensor

from ..layers.adapter import Adapter
from ..layers.attention import Attention, AttentionShape, StepMetadata
from ..layers.cross_attention import CrossAttention
from ..layers.encoder_attention import EncoderAttention, EncoderMetadata
from ..layers.ia3 import Ia3
from ..layers.linear import JointLinear, Linear, LinearSum
from ..layers.mlp import Mlp
from ..layers.moe import MoeMlp, Router, SharedExpert, join
from ..layers.norm import LayerNorm, NormLayer, RmsNorm
from ..layers.position import RopeSpec, relative_bias_table, rope_table
from ..parallel.comm import Communicator
from ..parallel.mesh import Mesh
from .block import TOPOLOGIES, Block, Context, Metadata, Pair, Topology
from .families.layouts import Layout
from .spec import AdapterNorm, ModelSpec, MoeSpec, Norm
from .weights import OUTSIDE, Fused, Part, Place, WeightReader

DecoderBlock = Block[StepMetadata, [Tensor]]
EncoderBlock = Block[EncoderMetadata, []]


@dataclass(frozen=True, slots=True)
class BlockBuilder:
    """Layers whose weights `reader` finds under the names of this stack."""

    reader: WeightReader
    spec: ModelSpec
    qkv_layout: Layout
    mesh: Mesh
    group: Communicator
    num_positions: int
    """Of the rotary tables."""
    dtype: torch.dtype
    device: torch.device

    def decoder(self, layers: range) -> tuple[tuple[DecoderBlock, ...], tuple[CrossAttention, ...]]:
        """Layers, and their attentions to the encoder where there is one."""
        ropes, biases = self._rope_tables(layers), self._relative_biases(layers, bidirectional=False)
        blocks: list[DecoderBlock] = []
        crosses: list[CrossAttention] = []
        for layer in layers:
            place = Place(layer)
            attention = self._attention(place, ropes[self.spec.rope_of(layer)], biases.get(layer))
            if self.spec.encoder is not None:
                crosses.append(self._cross_attention(place))
            blocks.append(self._block(place, attention, crosses[-1] if crosses else None, attention.write))
        return tuple(blocks), tuple(crosses)

    def encoder(self, layers: range) -> tuple[EncoderBlock, ...]:
        """Layers in which every token sees its whole sequence."""
        biases = self._relative_biases(layers, bidirectional=True)
        return tuple(
            self._block(Place(layer), self._encoder_attention(Place(layer), biases.get(layer)))
            for layer in layers
        )

    # Blocks

    def _rope_tables(self, layers: range) -> dict[RopeSpec | None, Tensor | None]:
        """One for each kind that these layers have."""
        ropes = {self.spec.rope_of(layer) for layer in layers}
        return {
            rope: None if rope is None else rope_table(rope, self.num_positions).to(self.device)
            for rope in ropes
        }

    def _relative_biases(self, layers: range, bidirectional: bool) -> dict[int, Tensor]:
        """Of every layer [N, columns] of this rank's heads; nothing where the model has none."""
        relative, heads = self.spec.relative_bias, self.spec.num_attention_heads
        if relative is None:
            return {}
        tables: dict[int, Tensor] = {}
        for layer in {0} if relative.is_shared else set(layers):
            own = self.reader.share(heads)
            buckets = self.reader.own_columns("relative_bias", relative.num_buckets, heads, own, Place(layer))
            tables[layer] = relative_bias_table(relative, buckets, bidirectional)
        return {layer: tables[0 if relative.is_shared else layer] for layer in layers}

    def _block(
        self,
        place: Place,
        attention: Callable[Concatenate[Tensor, Metadata, Context], Tensor],
        cross_attention: Callable[Concatenate[Tensor, Metadata, Context], Tensor] | None = None,
        write: Callable[Concatenate[Tensor, Metadata, Context], None] | None = None,
    ) -> Block[Metadata, Context]:
        topology, moe = TOPOLOGIES[self.spec.residual], self.spec.moe_of(place.layer)
        assert cross_attention is None or topology.takes_cross_attention
        norms = topology.norms if cross_attention is None else (*topology.norms, "cross_norm")
        mlp = self._mlp(place) if moe is None else self._moe(place, moe)
        return Block(
            topology=topology,
            norms={role: self.layer_norm(role, place, keeps_sum=not topology.replaces) for role in norms},
            attention=attention,
            mlp=mlp,
            group=self.group,
            cross_attention=cross_attention,
            adapters={role: self._adapter(role, place) for role in topology.adapters},
            pair=self._pair(topology, attention, mlp) if topology.is_parallel else None,
            write=write,
        )

    def _pair(self, topology: Topology, attention: object, mlp: Mlp | MoeMlp) -> Any:
        """Side by side; only decoders are."""
        assert isinstance(attention, Attention)
        assert isinstance(mlp, Mlp)
        shares_input = len(topology.norms) == 1 and not mlp.is_gated
        joint = JointLinear(attention.qkv, mlp.up) if shares_input else None
        return Pair(attention, mlp, LinearSum(attention.output, mlp.down), joint)

    def layer_norm(self, role: str, place: Place = OUTSIDE, keeps_sum: bool = True) -> NormLayer:
        return self.norm(role, self.spec.norm, self.spec.hidden_size, place, keeps_sum)

    def norm(self, role: str, norm: Norm, size: int, place: Place, keeps_sum: bool = True) -> NormLayer:
        """What the checkpoint does not have is neutral."""
        spec, neutral = self.spec, torch.zeros(size, dtype=self.dtype, device=self.device)
        weight = self.reader.vector(role, ".weight", size, place) if spec.norm_weight else neutral + 1
        weight += spec.norm_offset
        if norm is Norm.RMS:
            return RmsNorm(weight, spec.norm_eps, keeps_sum)
        bias = self.reader.vector(role, ".bias", size, place) if spec.norm_bias else neutral
        return LayerNorm(weight, bias, spec.norm_eps, keeps_sum)

    def _attention(self, place: Place, rope_table: Tensor | None, relative_bias: Tensor | None) -> Attention:
        spec, rope = self.spec, self.spec.rope_of(place.layer)
        q, kv = self.reader.share(spec.num_attention_heads), self.kv_heads()
        shape = AttentionShape(
            num_heads=q[1] - q[0],
            num_kv_heads=kv[1] - kv[0],
            head_dim=spec.head_dim,
            scale=self._scale(),
            window=spec.window_of(place.layer),
            soft_cap=spec.attention_soft_cap,
            qkv_limit=spec.qkv_limit,
            interleaved=rope is not None and rope.interleaved,
        )
        return Attention(
            shape,
            self._qkv(place, q, kv),
            self._output("output", place),
            rope_table,
            self._alibi_slopes(q),
            relative_bias,
            self._head_norm("q_norm", place),
            self._head_norm("k_norm", place),
            self._ia3(self._qkv_parts(q, kv)[1:], place),
        )

    def _encoder_attention(self, place: Place, relative_bias: Tensor | None) -> EncoderAttention:
        own = self.reader.share(self.spec.num_attention_heads)
        qkv, output = self._qkv(place, own, own), self._output("output", place)
        ia3 = self._ia3(self._qkv_parts(own, own)[1:], place)
        return EncoderAttention(self.spec.head_dim, self._scale(), qkv, output, relative_bias, ia3)

    def _cross_attention(self, place: Place) -> CrossAttention:
        spec, encoder = self.spec, self.spec.encoder
        assert encoder is not None
        own = self.reader.share(spec.num_attention_heads)
        q, k, v = (
            Part(role, spec.num_attention_heads * spec.head_dim, *(end * spec.head_dim for end in own))
            for role in ("cross_q", "cross_k", "cross_v")
        )
        count = own[1] - own[0]
        return CrossAttention(
            AttentionShape(num_heads=count, num_kv_heads=count, head_dim=spec.head_dim, scale=self._scale()),
            self.reader.column_parallel([q], spec.hidden_size, None, place, spec.qkv_bias),
            self.reader.column_parallel([k, v], encoder.hidden_size, None, place, spec.qkv_bias),
            self._output("cross_output", place),
            self._ia3([k, v], place),
        )

    def _scale(self) -> float:
        return self.spec.attention_scale or self.spec.head_dim**-0.5

    def _output(self, role: str, place: Place) -> Linear:
        spec, heads = self.spec, self.spec.num_attention_heads
        own = tuple(end * spec.head_dim for end in self.reader.share(heads))
        columns = heads * spec.head_dim
        return self.reader.row_parallel(
            role, spec.hidden_size, columns, (own[0], own[1]), place, spec.output_bias, spec.sublayer_scale
        )

    def _qkv(self, place: Place, q: tuple[int, int], kv: tuple[int, int]) -> Linear:
        spec, dim = self.spec, self.spec.head_dim
        heads = {"q": q, "k": kv, "v": kv}
        places = [self.qkv_layout(spec, role, head) for role in heads for head in range(*heads[role])]
        rows = (torch.tensor(places)[:, None] * dim + torch.arange(dim)).flatten()
        parts, fused = self._qkv_parts(q, kv), Fused("qkv", rows)
        return self.reader.column_parallel(parts, spec.hidden_size, fused, place, spec.qkv_bias)

    def _qkv_parts(self, q: tuple[int, int], kv: tuple[int, int]) -> list[Part]:
        """Args: q, kv: this rank's heads."""
        spec, dim = self.spec, self.spec.head_dim
        counts = {"q": spec.num_attention_heads, "k": spec.num_key_value_heads, "v": spec.num_key_value_heads}
        heads = {"q": q, "k": kv, "v": kv}
        return [
            Part(role, counts[role] * dim, start * dim, stop * dim) for role, (start, stop) in heads.items()
        ]

    def _ia3(self, parts: list[Part], place: Place) -> Ia3 | None:
        """Of what lies side by side in a product."""
        tasks = self.spec.ia3_num_tasks
        if not tasks:
            return None
        tables = [
            self.reader.factors(f"{part.role}_ia3", tasks, part.size, (part.start, part.stop), place)
            for part in parts
        ]
        return Ia3(torch.cat(tables, 1))

    def _alibi_slopes(self, heads: tuple[int, int]) -> Tensor | None:
        """[N] float32 of this rank's heads."""
        slopes = self.spec.alibi_slopes[slice(*heads)]
        return torch.tensor(slopes, dtype=torch.float32, device=self.device) if slopes else None

    def _head_norm(self, role: str, place: Place) -> NormLayer | None:
        norm = self.spec.qk_norm
        return None if norm is None else self.norm(role, norm, self.spec.head_dim, place)

    def kv_heads(self) -> tuple[int, int]:
        """Ranks beyond the number of key-value heads repeat them."""
        heads, ranks = self.spec.num_key_value_heads, self.mesh.tp_size
        if heads >= ranks:
            return self.reader.share(heads)
        mine = self.mesh.tp_rank // (ranks // heads)
        return mine, mine + 1

    def _mlp(self, place: Place) -> Mlp:
        size = self.spec.intermediate_size
        inner = Part("down", size, *self.reader.share(size))
        return self._feed_forward("", size, place, self._ia3([inner], place))

    def _adapter(self, role: str, place: Place) -> Adapter:
        """What it takes and adds to is scaled as the residual stream is; it computes as if not."""
        adapter, hidden, scale = self.spec.adapter, self.spec.hidden_size, self.spec.stream_scale
        assert adapter is not None
        if adapter.norm is AdapterNorm.NONE:
            return Adapter(self._adapter_mlp(role, place, 1.0, scale), self.group)
        weight = self.reader.vector(f"{role}_norm", ".weight", hidden, place)
        bias = self.reader.vector(f"{role}_norm", ".bias", hidden, place)
        if adapter.norm is AdapterNorm.PRE:
            before = LayerNorm(weight, bias, self.spec.norm_eps)
            return Adapter(self._adapter_mlp(role, place, 1.0, scale), self.group, before=before)
        behind = LayerNorm(weight.mul_(scale), bias.mul_(scale), self.spec.norm_eps / scale**2)
        return Adapter(self._adapter_mlp(role, place, 1 / scale, 1.0), self.group, behind=behind)

    def _adapter_mlp(self, role: str, place: Place, up_scale: float, down_scale: float) -> Mlp:
        adapter, hidden = self.spec.adapter, self.spec.hidden_size
        assert adapter is not None
        size, has_bias = adapter.intermediate_size, adapter.has_bias
        share = self.reader.share(size)
        up, down = Part(f"{role}_up", size, *share), f"{role}_down"
        return Mlp(
            self.reader.column_parallel([up], hidden, None, place, has_bias, up_scale),
            self.reader.row_parallel(down, hidden, size, share, place, has_bias, down_scale),
            adapter.activation,
            gated=False,
        )

    def _moe(self, place: Place, moe: MoeSpec) -> MoeMlp:
        weight = self.reader.table("router", moe.num_experts, self.spec.hidden_size, place=place)
        router = Router(weight, moe.num_experts_per_tok, moe.normalised)
        experts = [
            self._feed_forward("expert_", moe.intermediate_size, Place(place.layer, expert))
            for expert in range(moe.num_experts)
        ]
        return MoeMlp(router, join(experts), self._shared_expert(place, moe))

    def _shared_expert(self, place: Place, moe: MoeSpec) -> SharedExpert | None:
        if not moe.shared_intermediate_size:
            return None
        mlp = self._feed_forward("shared_", moe.shared_intermediate_size, place)
        return SharedExpert(mlp, self.reader.table("shared_router", 1, self.spec.hidden_size, place=place))

    def _feed_forward(self, prefix: str, size: int, place: Place, ia3: Ia3 | None = None) -> Mlp:
        """An MLP whose roles begin with `prefix`."""
        spec, share = self.spec, self.reader.share(size)
        roles = ("gate", "up") if spec.gated_mlp else ("up",)
        parts = [Part(prefix + role, size, *share) for role in roles]
        rows = torch.cat([index * size + torch.arange(*share) for index in range(len(roles))])
        fused = Fused(prefix + "gate_up", rows)
        return Mlp(
            self.reader.column_parallel(parts, spec.hidden_size, fused, place, spec.mlp_bias),
            self.reader.row_parallel(
                prefix + "down", spec.hidden_size, size, share, place, spec.mlp_bias, spec.sublayer_scale
            ),
            spec.activation,
            spec.gated_mlp,
            ia3,
        )
