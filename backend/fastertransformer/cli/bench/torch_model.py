# SPDX-License-Identifier: BSD-3-Clause
"""Decoder-only models in plain torch: merged projections, a static cache, SDPA. Weights are random."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from ...errors import ModelLoadError


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the families below differ in."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int
    theta: float = 10_000.0
    rotary_dim: int = 0
    """0: learned positions."""
    interleaved: bool = False
    rms: bool = False
    gated: bool = False
    parallel: bool = False
    """Attention and MLP read the same norm, and both are added."""
    attention_bias: bool = True
    mlp_bias: bool = True
    head_bias: bool = False


def _llama(config: Mapping[str, Any]) -> Sizes:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config
    return Sizes(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        intermediate=config["intermediate_size"],
        vocab=config["vocab_size"],
        positions=config["max_position_embeddings"],
        theta=rope.get("rope_theta", 10_000.0),
        rotary_dim=head_dim,
        rms=True,
        gated=True,
        attention_bias=False,
        mlp_bias=False,
    )


def _gpt2(config: Mapping[str, Any], **changes: Any) -> Sizes:
    return Sizes(
        hidden=config["n_embd"],
        layers=config["n_layer"],
        heads=config["n_head"],
        kv_heads=config["n_head"],
        head_dim=config["n_embd"] // config["n_head"],
        intermediate=config.get("n_inner") or 4 * config["n_embd"],
        vocab=config["vocab_size"],
        positions=config["n_positions"],
        **changes,
    )


def _gptj(config: Mapping[str, Any]) -> Sizes:
    return _gpt2(
        config,
        rotary_dim=config["rotary_dim"],
        interleaved=True,
        parallel=True,
        attention_bias=False,
        head_bias=True,
    )


FAMILIES: dict[str, Callable[[Mapping[str, Any]], Sizes]] = {
    "llama": _llama,
    "mistral": _llama,
    "gpt2": _gpt2,
    "gptj": _gptj,
}
"""By model_type."""


def read_sizes(folder: Path) -> Sizes:
    """Raises: ModelLoadError: a family that this peer does not know."""
    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"]
    if kind not in FAMILIES:
        raise ModelLoadError(f"--peer torch knows {', '.join(FAMILIES)}; {folder} is a {kind}")
    return FAMILIES[kind](config)


class Attention(nn.Module):
    """Writes into its static cache [B, K, L, D] and attends to all of it, or to the prompt alone."""

    k_cache: Tensor
    v_cache: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        outputs = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
        self.qkv = nn.Linear(sizes.hidden, outputs, bias=sizes.attention_bias)
        self.output = nn.Linear(sizes.heads * sizes.head_dim, sizes.hidden, bias=sizes.attention_bias)

    def forward(self, x: Tensor, positions: Tensor, table: Tensor | None, mask: Tensor | None) -> Tensor:
        """mask [1, L]: which cached keys a single token sees; None: x is a whole prompt."""
        sizes, (batch, length, _) = self.sizes, x.shape
        heads = self.qkv(x).view(batch, length, -1, sizes.head_dim).transpose(1, 2)
        q, k, v = heads.split([sizes.heads, sizes.kv_heads, sizes.kv_heads], 1)
        if table is not None:
            q, k = (self._rotate(part, table[positions]) for part in (q, k))
        self.k_cache.index_copy_(2, positions, k)
        self.v_cache.index_copy_(2, positions, v)
        if mask is None:
            grouped = sizes.heads != sizes.kv_heads
            attended = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        else:  # the queries of a group share a key: they are its rows
            rows = q.reshape(batch, sizes.kv_heads, -1, sizes.head_dim)
            attended = scaled_dot_product_attention(rows, self.k_cache, self.v_cache, mask)
            attended = attended.reshape(batch, sizes.heads, length, sizes.head_dim)
        projected: Tensor = self.output(attended.transpose(1, 2).reshape(batch, length, -1))
        return projected

    def _rotate(self, heads: Tensor, turns: Tensor) -> Tensor:
        """heads [B, N, T, D], turns [T, R]: cosines and sines."""
        size, interleaved = self.sizes.rotary_dim, self.sizes.interleaved
        cos, sin = turns.chunk(2, -1)
        part = heads[..., :size]
        first, second = (part[..., ::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
        turned = (first * cos - second * sin, second * cos + first * sin)
        joined = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
        return torch.cat((joined, heads[..., size:]), -1)


class Block(nn.Module):
    """One layer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.norm1 = _norm(sizes)
        self.norm2 = None if sizes.parallel else _norm(sizes)
        self.attention = Attention(sizes)
        self.up = nn.Linear(sizes.hidden, (1 + sizes.gated) * sizes.intermediate, bias=sizes.mlp_bias)
        self.down = nn.Linear(sizes.intermediate, sizes.hidden, bias=sizes.mlp_bias)

    def forward(self, x: Tensor, positions: Tensor, table: Tensor | None, mask: Tensor | None) -> Tensor:
        normed = self.norm1(x)
        added: Tensor = x + self.attention(normed, positions, table, mask)
        return added + self._mlp(normed if self.norm2 is None else self.norm2(added))

    def _mlp(self, x: Tensor) -> Tensor:
        wide = self.up(x)
        if self.sizes.gated:
            gate, up = wide.chunk(2, -1)
            wide = functional.silu(gate) * up
        else:
            wide = functional.gelu(wide, approximate="tanh")
        narrow: Tensor = self.down(wide)
        return narrow


class Transformer(nn.Module):
    """Greedy tokens of a batch, in step."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.words = nn.Embedding(sizes.vocab, sizes.hidden)
        self.learned = None if sizes.rotary_dim else nn.Embedding(sizes.positions, sizes.hidden)
        blocks = [Block(sizes) for _ in range(sizes.layers)]
        self.blocks = nn.ModuleList(blocks)
        self._attentions = [block.attention for block in blocks]
        self.norm = _norm(sizes)
        self.head = nn.Linear(sizes.hidden, sizes.vocab, bias=sizes.head_bias)
        self.table = self._rope_table() if sizes.rotary_dim else None

    def _rope_table(self) -> Tensor:
        exponents = torch.arange(0, self.sizes.rotary_dim, 2, dtype=torch.float32) / self.sizes.rotary_dim
        positions = torch.arange(self.sizes.positions, dtype=torch.float32)
        angles = torch.outer(positions, self.sizes.theta**-exponents)
        return torch.cat((angles.cos(), angles.sin()), -1).to(self.words.weight.dtype)

    def allocate(self, batch: int, length: int) -> None:
        """Caches for `batch` sequences of up to `length` tokens."""
        shape = (batch, self.sizes.kv_heads, length, self.sizes.head_dim)
        for attention in self._attentions:
            attention.k_cache, attention.v_cache = (self.words.weight.new_zeros(shape) for _ in range(2))

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """ids [B, T] at positions [T] -> the next token [B, 1]."""
        x = self.words(ids)
        if self.learned is not None:
            x = x + self.learned(positions)
        for block in self.blocks:
            x = block(x, positions, self.table, mask)
        next_ids: Tensor = self.head(self.norm(x[:, -1:])).argmax(-1)
        return next_ids


def _norm(sizes: Sizes) -> nn.Module:
    return nn.RMSNorm(sizes.hidden, 1e-5) if sizes.rms else nn.LayerNorm(sizes.hidden, 1e-5)
