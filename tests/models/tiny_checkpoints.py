# SPDX-License-Identifier: BSD-3-Clause
"""Tiny seeded random models of every family, saved as checkpoints."""

import json
from pathlib import Path

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
    "rms_norm_eps": 1e-3,
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
LONG = {
    **ROPE,
    "rope_type": "longrope",
    "factor": 2.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 5.0, 9.0],
}
NEAR, FAR = {**ROPE, "rope_type": "default"}, {"rope_theta": 1e6, "rope_type": "linear", "factor": 4.0}
GROUPS = {"new_decoder_architecture": True, "num_kv_heads": 2}
RW = {"alibi": True, "parallel_attn": False, "multi_query": False}
UNTIED = {"tie_word_embeddings": False}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
YARN = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.22,
    "logits_scaling": 2.0,
}
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
    "opt-bare-norms": ("OPTConfig", {"ffn_dim": 80, "layer_norm_elementwise_affine": False}),
    "bloom": ("BloomConfig", {}),
    "bloom-8-heads": ("BloomConfig", {"num_attention_heads": 8, **UNTIED}),
    "falcon": ("FalconConfig", {}),
    "falcon-bias": ("FalconConfig", {"bias": True, "multi_query": False, **UNTIED}),
    "falcon-alibi": ("FalconConfig", {**RW, "attn_implementation": "sdpa"}),  # eager adds ALiBi twice
    "falcon-groups": ("FalconConfig", GROUPS),
    "falcon-groups-one-norm": ("FalconConfig", {**GROUPS, "num_ln_in_parallel_attn": 1}),
    "mpt": ("MptConfig", {"max_seq_len": 128}),
    "mpt-clipped": (
        "MptConfig",
        {"max_seq_len": 128, "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.7}},
    ),
    "phi": ("PhiConfig", {}),
    "phi-qk-norm": ("PhiConfig", {"qk_layernorm": True, "partial_rotary_factor": 1.0}),
    "phi3": ("Phi3Config", {"pad_token_id": 0, "sliding_window": 9}),
    "phi3-long": (
        "Phi3Config",
        {"pad_token_id": 0, "rope_parameters": LONG, "original_max_position_embeddings": 3},
    ),
    "starcoder2": ("Starcoder2Config", {"sliding_window": 9}),
    "starcoder2-no-bias": ("Starcoder2Config", {"use_bias": False, **UNTIED}),
    "gpt_bigcode": ("GPTBigCodeConfig", {}),
    "gpt_bigcode-heads": ("GPTBigCodeConfig", {"multi_query": False, "n_inner": 80}),
    "gemma": ("GemmaConfig", {"head_dim": 16, **UNTIED}),
    "gemma-legacy": ("GemmaConfig", {"head_dim": 8, "num_key_value_heads": 1, "hidden_act": "gelu"}),
    "gemma2": (
        "Gemma2Config",
        {
            "head_dim": 8,
            "sliding_window": 9,
            "query_pre_attn_scalar": 4,
            "attn_logit_softcapping": 0.7,
            "final_logit_softcapping": 2.0,
            **UNTIED,
        },
    ),
    "gemma3_text": (
        "Gemma3TextConfig",
        {
            "head_dim": 8,
            "sliding_window": 9,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": FAR, "sliding_attention": NEAR},
            **UNTIED,
        },
    ),
    "codegen": ("CodeGenConfig", {"num_attention_heads": 8, "rotary_dim": 4}),
    "xglm": ("XGLMConfig", {"ffn_dim": 80, **UNTIED}),
    "xglm-unscaled": ("XGLMConfig", {"ffn_dim": 80, "scale_embedding": False}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 5, "sliding_window": 9}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {**EXPERTS, "shared_expert_intermediate_size": 40, "mlp_only_layers": [0], "norm_topk_prob": True},
    ),
    "qwen2_moe-window": (
        "Qwen2MoeConfig",
        {**EXPERTS, "shared_expert_intermediate_size": 40, "use_sliding_window": True, "sliding_window": 7},
    ),
    "qwen3_moe": ("Qwen3MoeConfig", {**EXPERTS, "head_dim": 16, "decoder_sparse_step": 2}),
    "qwen3_moe-window": (
        "Qwen3MoeConfig",
        {**EXPERTS, "head_dim": 8, "use_sliding_window": True, "sliding_window": 7, "norm_topk_prob": True},
    ),
    "stablelm": ("StableLmConfig", {}),
    "stablelm-parallel": (
        "StableLmConfig",
        {"use_parallel_residual": True, "use_qkv_bias": True, "partial_rotary_factor": 0.5},
    ),
    "cohere": ("CohereConfig", {"layer_norm_eps": 1e-3}),
    "cohere-bias": ("CohereConfig", {"attention_bias": True, "logit_scale": 0.5, **UNTIED}),
    "cohere2": ("Cohere2Config", {"sliding_window": 9, "sliding_window_pattern": 2}),
    "granite": ("GraniteConfig", {**MULTIPLIERS, **UNTIED}),
    "granite-bias": ("GraniteConfig", {"attention_bias": True, "mlp_bias": True, "residual_multiplier": 0.7}),
    "smollm3": ("SmolLM3Config", {"pad_token_id": 0, "no_rope_layers": [0, 1]}),
    "smollm3-window": (
        "SmolLM3Config",
        {
            "pad_token_id": 0,
            "no_rope_layer_interval": 2,
            "use_sliding_window": True,
            "sliding_window": 7,
            **UNTIED,
        },
    ),
    "olmo": ("OlmoConfig", {"clip_qkv": 0.5}),
}


def make(name: str, folder: object, max_shard_size: str = "1GB", **overrides: object) -> torch.nn.Module:
    """Saves a seeded random model of a case, with fields overridden, into `folder` and returns it."""
    config_name, changes = CASES[name]
    kind = getattr(transformers, config_name)
    sizes = {key: value for key, value in TINY.items() if hasattr(kind(), key)}
    config = kind(**{**sizes, "attn_implementation": "eager", **changes, **overrides})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases start as ones and zeros, which hides errors
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter == 1))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model


def change_config(folder: Path, **changes: object) -> None:
    """Sets keys of config.json; None removes one."""
    values = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
