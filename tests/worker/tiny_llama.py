# SPDX-License-Identifier: BSD-3-Clause
"""A tiny llama that many ranks can split up."""

from pathlib import Path

import torch
from decided import decided
from engine_runs import VOCAB_SIZE
from transformers import LlamaConfig, LlamaForCausalLM


def write_llama(folder: Path) -> Path:
    """Heads and layers for eight ranks; two key-value heads are repeated, 211 words are padded."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=0,
    )
    model = decided(LlamaForCausalLM(config))
    model.save_pretrained(folder)
    return folder
