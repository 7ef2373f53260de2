# SPDX-License-Identifier: BSD-3-Clause
"""Megatron's T5 written out, since transformers has none, and its files as FasterTransformer wrote them."""

from pathlib import Path

import torch
import torch.nn.functional as F
from fastertransformer_files import save, split
from torch import Tensor

from fastertransformer.layers.position import RelativeBias, relative_bias_table

HIDDEN, HEADS, DIM, INNER, VOCAB, LONGEST, BUCKETS = 48, 4, 12, 80, 101, 64, 8
ADAPTER = 20
START_ID, END_ID = 3, 4


class Reference:
    """Tensors by their files' names, matrices as [in, out], and what they compute."""

    def __init__(
        self, absolute: bool, gated: bool, task: int | None = None, adapters: dict[str, str] | None = None
    ) -> None:
        self.absolute, self.gated, self.task = absolute, gated, task
        self.adapters = adapters or {}
        self.tensors: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)
        self.words = self.tensor("shared.weight_T", VOCAB, HIDDEN)
        self.tensor("shared.bias", VOCAB)
        self.tensor("shared.ape" if absolute else "unused", LONGEST, HIDDEN)

    def tensor(self, name: str, *shape: int) -> Tensor:
        if name not in self.tensors:
            self.tensors[name] = torch.randn(shape, generator=self.generator) * 0.2
        return self.tensors[name]

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = (self.tensor(f"{name}.{suffix}", HIDDEN) for suffix in ("weight", "bias"))
        return F.layer_norm(x, (HIDDEN,), weight, bias, 1e-6)

    def linear(self, x: Tensor, name: str, outputs: int) -> Tensor:
        return x @ self.tensor(f"{name}.weight", x.shape[-1], outputs) + self.tensor(f"{name}.bias", outputs)

    def scaled(self, x: Tensor, name: str) -> Tensor:
        """By the factors of the task, where there is one."""
        return x if self.task is None else x * self.tensor(f"{name}.ia3.weight", 3, x.shape[-1])[self.task]

    def attention(self, x: Tensor, memory: Tensor, name: str, bias: Tensor | None, is_causal: bool) -> Tensor:
        q, k, v = (
            self.linear(y, f"{name}.{role}", HEADS * DIM)
            for role, y in (("q", x), ("k", memory), ("v", memory))
        )
        k, v = self.scaled(k, f"{name}.k"), self.scaled(v, f"{name}.v")
        q, k, v = (y.view(len(y), HEADS, DIM).transpose(0, 1) for y in (q, k, v))
        scores = q @ k.transpose(1, 2) * DIM**-0.5
        scores = scores if bias is None else scores + bias
        if is_causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
        attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
        return self.linear(attended, f"{name}.o", HIDDEN)

    def mlp(self, x: Tensor, name: str) -> Tensor:
        inner = F.gelu(self.linear(x, f"{name}.wi", INNER), approximate="tanh")
        inner = inner * self.linear(x, f"{name}.wi2", INNER) if self.gated else inner
        return self.linear(self.scaled(inner, name), f"{name}.wo", HIDDEN)

    def adapted(self, x: Tensor, stack: str, layer: int, place: str) -> Tensor:
        """With what the adapter of the stack adds, where it has some."""
        kind, name = self.adapters.get(stack), f"{stack}.block.{layer}.after_{place}_adapter"
        if kind is None:
            return x
        y = self.norm(x, f"{name}.layer_norm") if kind == "pre" else x
        inner = F.silu(y @ self.tensor(f"{name}.DenseSiluDense.wi.weight", HIDDEN, ADAPTER))
        y = inner @ self.tensor(f"{name}.DenseSiluDense.wo.weight", ADAPTER, HIDDEN)
        return x + (y if kind == "pre" else self.norm(y, f"{name}.layer_norm"))

    def bias(self, stack: str, length: int) -> Tensor | None:
        if self.absolute:
            return None
        name = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table = self.tensor(name, HEADS, BUCKETS).T
        is_encoder = stack == "encoder"
        by_distance = relative_bias_table(RelativeBias(BUCKETS, 128, True), table, is_encoder)
        reach, at = 128, torch.arange(length)
        distances = (at - at[:, None]).clamp(-reach, reach if is_encoder else 0) + reach
        return by_distance[:, distances]

    def stack(self, stack: str, ids: list[int], memory: Tensor | None) -> Tensor:
        x = self.words[ids] + (self.tensor("shared.ape")[: len(ids)] if self.absolute else 0)
        bias, is_decoder = self.bias(stack, len(ids)), memory is not None
        for layer in range(2):
            block = f"{stack}.block.{layer}.layer"
            y = self.norm(x, f"{block}.0.layer_norm")
            attended = self.attention(y, y, f"{block}.0.SelfAttention", bias, is_decoder)
            x = x + self.adapted(attended, stack, layer, "attention")
            if memory is not None:
                y = self.norm(x, f"{block}.1.layer_norm")
                x = x + self.attention(y, memory, f"{block}.1.EncDecAttention", None, False)
            last = 2 if is_decoder else 1
            z = self.mlp(self.norm(x, f"{block}.{last}.layer_norm"), f"{block}.{last}.DenseReluDense")
            x = x + self.adapted(z, stack, layer, "ffn")
        return self.norm(x, f"{stack}.final_layer_norm")

    def logits(self, source: list[int], target: list[int]) -> Tensor:
        hidden = self.stack("decoder", target, self.stack("encoder", source, None))
        return hidden @ self.words.T + self.tensor("shared.bias")

    def write(self, folder: Path, shards: int) -> Path:
        """After `logits` has named all tensors."""
        place = folder / f"{shards}-gpu"
        place.mkdir(parents=True)
        tensors = {name: tensor for name, tensor in self.tensors.items() if name != "unused"}
        for layer in range(2):
            stem = f"decoder.block.{layer}.layer.0.SelfAttention"
            for suffix in ("weight", "bias"):
                parts = [tensors.pop(f"{stem}.{role}.{suffix}") for role in "qkv"]
                tensors[f"{stem}.qkv.{suffix}"] = torch.stack(parts, -2)
        for name, tensor in tensors.items():
            for file, part in self.cut(name, tensor, shards).items():
                save(place / f"{file}.bin", part, torch.float32)
        kind = ("0" if self.gated else "absolute") if self.absolute else "relative"  # either was written
        kinds = {stack: self.adapters.get(stack) for stack in ("encoder", "decoder")}
        sizes = f"d_model={HIDDEN}\nd_kv={DIM}\nd_ff={INNER}\nnum_heads={HEADS}\n"
        sizes += f"num_layers=2\nvocab_size={VOCAB}\n"
        buckets = LONGEST if self.absolute else BUCKETS
        sizes += f"relative_attention_num_buckets_or_max_pos_seq_len={buckets}\nweight_data_type=fp32\n"
        keys = {name: f"adapter_inter_size={ADAPTER if kind else 0}\n" for name, kind in kinds.items()}
        keys |= {name: f"{keys[name]}adapter_norm_position={kind}\n" for name, kind in kinds.items() if kind}
        (place / "config.ini").write_text(
            f"[encoder]\n{sizes}{keys['encoder']}feed_forward_proj={'geglu' if self.gated else 'gelu'}\n"
            f"[decoder]\n{sizes}{keys['decoder']}decoder_start_token_id={START_ID}\neos_token_id={END_ID}\n"
            f"[structure]\nt5_with_bias=1\nuse_gated_activation={int(self.gated)}\nposition_embedding_type={kind}\n"
            f"ia3_num_tasks={0 if self.task is None else 3}\n"
        )
        return place

    def cut(self, name: str, tensor: Tensor, shards: int) -> dict[str, Tensor]:
        if name.endswith((".o.weight", ".wo.weight", "relative_attention_bias.weight")):
            return split(name, tensor, shards, 0)
        roles = (".q.", ".k.", ".v.", ".qkv.", ".wi.", ".wi2.", ".ia3.")
        return split(name, tensor, shards, -1) if any(role in name for role in roles) else {name: tensor}
