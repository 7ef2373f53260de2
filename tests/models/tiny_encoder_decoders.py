# SPDX-License-Identifier: BSD-3-Clause
"""Tiny seeded random encoder-decoders of every family, saved as checkpoints."""

import torch
import transformers

T5 = {
    "vocab_size": 101,
    "d_model": 48,
    "d_kv": 12,
    "d_ff": 80,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": 101,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 72,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
SCALED = {"scale_embedding": True}
CASES = {
    "t5": ("T5Config", T5),
    "t5-gated": ("T5Config", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5-silu": ("T5Config", {**T5, "feed_forward_proj": "gated-silu", "num_decoder_layers": None}),
    "t5-other-activation": ("T5Config", {**T5, "dense_act_fn": "gelu_new"}),
    "mt5": ("MT5Config", T5),
    "umt5": ("UMT5Config", {**T5, "tie_word_embeddings": False}),
    "bart": ("BartConfig", BART),
    "bart-scaled": ("BartConfig", {**BART, **SCALED, "activation_function": "relu"}),
    "mbart": ("MBartConfig", {**BART, **SCALED}),
    "m2m_100": ("M2M100Config", {**BART, **SCALED, "activation_function": "relu"}),
    "m2m_100-unscaled": ("M2M100Config", {**BART, "scale_embedding": False}),
    "marian": ("MarianConfig", {**BART, **SCALED, "activation_function": "swish"}),
    "marian-two-vocabularies": (
        "MarianConfig",
        {**BART, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 91},
    ),
    "pegasus": ("PegasusConfig", {**BART, **SCALED}),
}
SEPARATE_HEADS = ("t5-gated", "mt5", "umt5")
"""transformers ties the head of every new model, but not that of a checkpoint that has its own."""


def make(name: str, folder: object, **overrides: object) -> torch.nn.Module:
    """Saves a seeded random model of a case, with fields overridden, into `folder` and returns it."""
    config_name, fields = CASES[name]
    config = getattr(transformers, config_name)(**{**fields, **overrides})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    if name in SEPARATE_HEADS:
        model.lm_head.weight = torch.nn.Parameter(torch.empty(model.lm_head.weight.shape))
    std = 0.1 if "d_kv" in fields else 0.2  # T5 does not scale its scores
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # else tables of sines
                parameter.copy_(torch.randn_like(parameter) * std + (parameter == 1))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(std=0.2)
    if model.generation_config is not None:
        model.generation_config.forced_eos_token_id = None
    model.save_pretrained(folder)
    return model
