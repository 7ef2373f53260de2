# SPDX-License-Identifier: BSD-3-Clause
"""Tiny seeded random models of every family, saved as checkpoints."""

import torch
import transformers

TINY = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROPE = {"rope_theta": 10_000.0}
LLAMA3 = {
    **ROPE,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
CASES = {
    "llama": ("LlamaConfig", {}),
    "llama-mha-bias": ("LlamaConfig", {"num_key_value_heads": 6, "attention_bias": True, "mlp_bias": True}),
    "llama-mqa-tied": ("LlamaConfig", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-head-dim": ("LlamaConfig", {"head_dim": 16}),
    "llama-linear": ("LlamaConfig", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}}),
    "llama-llama3": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama-yarn": ("LlamaConfig", {"rope_parameters": YARN}),
    "mistral": ("MistralConfig", {"sliding_window": 9}),
    "mistral-full": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gpt2": ("GPT2Config", {"num_attention_heads": 4}),
    "gpt_neo": ("GPTNeoConfig", {"attention_types": [[["local", "global"], 1]], "window_size": 9}),
    "gptj": ("GPTJConfig", {"rotary_dim": 4}),
    "gptj-inner": ("GPTJConfig", {"rotary_dim": 8, "n_inner": 80, "activation_function": "relu"}),
    "gpt_neox": ("GPTNeoXConfig", {"hidden_act": "gelu_new"}),
    "gpt_neox-sequential": ("GPTNeoXConfig", {"use_parallel_residual": False, "rotary_pct": 0.5}),
    "gpt_neox-no-bias": ("GPTNeoXConfig", {"attention_bias": False, "rotary_pct": 1.0}),
    "opt": ("OPTConfig", {"ffn_dim": 80}),
    "opt-350m": ("OPTConfig", {"ffn_dim": 80, "do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "opt-no-bias": ("OPTConfig", {"ffn_dim": 80, "enable_bias": False, "_remove_final_layer_norm": True}),
    "bloom": ("BloomConfig", {}),
    "bloom-8-heads": ("BloomConfig", {"num_attention_heads": 8}),
}


def make(name: str, folder: object, max_shard_size: str = "1GB", **overrides: object) -> torch.nn.Module:
    """Saves a seeded random model of a case, with fields overridden, into `folder` and returns it."""
    config_name, changes = CASES[name]
    kind = getattr(transformers, config_name)
    sizes = {key: value for key, value in TINY.items() if hasattr(kind(), key)}
    config = kind(**{**sizes, **changes, **overrides})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases start as ones and zeros, which hides errors
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter == 1))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model
