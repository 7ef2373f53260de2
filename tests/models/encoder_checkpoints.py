# SPDX-License-Identifier: BSD-3-Clause
"""Tiny seeded random encoders of every family with every head, saved as checkpoints."""

from typing import Any

import torch
import transformers

TINY = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 130,
    "num_labels": 5,
    "attn_implementation": "eager",
}
ELECTRA = {"embedding_size": 48}
DISTILBERT = {"dim": 48, "hidden_dim": 80, "n_layers": 2, "n_heads": 6}
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-3,
    "pooler_hidden_size": 48,
}
OWN_PRODUCTS = {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 3}
T5 = {"d_model": 48, "d_kv": 12, "d_ff": 80, "num_heads": 4, "num_layers": 2}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", {}),
    "bert-bare": ("BertModel", "BertConfig", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    "bert-pretraining": ("BertForPreTraining", "BertConfig", {}),
    "bert-masked": ("BertForMaskedLM", "BertConfig", {"tie_word_embeddings": False}),
    "bert-next": ("BertForNextSentencePrediction", "BertConfig", {}),
    "bert-classes": ("BertForSequenceClassification", "BertConfig", {}),
    "bert-tokens": ("BertForTokenClassification", "BertConfig", {}),
    "bert-spans": ("BertForQuestionAnswering", "BertConfig", {"num_labels": 2}),
    "roberta": ("RobertaModel", "RobertaConfig", {}),
    "roberta-masked": ("RobertaForMaskedLM", "RobertaConfig", {}),
    "roberta-classes": ("RobertaForSequenceClassification", "RobertaConfig", {}),
    "roberta-tokens": ("RobertaForTokenClassification", "RobertaConfig", {}),
    "xlm-roberta-classes": (
        "XLMRobertaForSequenceClassification",
        "XLMRobertaConfig",
        {"type_vocab_size": 1},
    ),
    "mpnet": ("MPNetModel", "MPNetConfig", {}),
    "mpnet-masked": ("MPNetForMaskedLM", "MPNetConfig", {}),
    "mpnet-classes": ("MPNetForSequenceClassification", "MPNetConfig", {}),
    "mpnet-tokens": ("MPNetForTokenClassification", "MPNetConfig", {}),
    "mpnet-spans": ("MPNetForQuestionAnswering", "MPNetConfig", {"num_labels": 2}),
    "electra": ("ElectraModel", "ElectraConfig", ELECTRA),
    "electra-discriminator": ("ElectraForPreTraining", "ElectraConfig", ELECTRA),
    "electra-classes": ("ElectraForSequenceClassification", "ElectraConfig", ELECTRA),
    "electra-tokens": ("ElectraForTokenClassification", "ElectraConfig", ELECTRA),
    "electra-spans": ("ElectraForQuestionAnswering", "ElectraConfig", {**ELECTRA, "num_labels": 2}),
    "distilbert": ("DistilBertModel", "DistilBertConfig", DISTILBERT),
    "distilbert-masked": ("DistilBertForMaskedLM", "DistilBertConfig", DISTILBERT),
    "distilbert-classes": ("DistilBertForSequenceClassification", "DistilBertConfig", DISTILBERT),
    "distilbert-tokens": ("DistilBertForTokenClassification", "DistilBertConfig", DISTILBERT),
    "deberta": ("DebertaV2Model", "DebertaV2Config", DEBERTA),
    "deberta-far": ("DebertaV2Model", "DebertaV2Config", {**DEBERTA, "position_buckets": -1}),
    "deberta-c2p": (
        "DebertaV2Model",
        "DebertaV2Config",
        {**DEBERTA, **OWN_PRODUCTS, "pos_att_type": ["c2p"], "max_relative_positions": 20},
    ),
    "deberta-own": ("DebertaV2Model", "DebertaV2Config", {**DEBERTA, **OWN_PRODUCTS, "norm_rel_ebd": "none"}),
    "deberta-absolute": (
        "DebertaV2Model",
        "DebertaV2Config",
        {"position_biased_input": True, "type_vocab_size": 2, "pooler_hidden_size": 48},
    ),
    "deberta-masked": ("DebertaV2ForMaskedLM", "DebertaV2Config", DEBERTA),
    "deberta-new-masked": ("DebertaV2ForMaskedLM", "DebertaV2Config", {**DEBERTA, "legacy": False}),
    "deberta-classes": ("DebertaV2ForSequenceClassification", "DebertaV2Config", DEBERTA),
    "deberta-convolved": (
        "DebertaV2Model",
        "DebertaV2Config",
        {**DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu"},
    ),
    "deberta-wide": ("DebertaV2Model", "DebertaV2Config", {**DEBERTA, "conv_kernel_size": 5}),
    "t5": ("T5EncoderModel", "T5Config", T5),
    "t5-gated": ("T5EncoderModel", "T5Config", {**T5, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5EncoderModel", "UMT5Config", T5),
    "deberta-tokens": ("DebertaV2ForTokenClassification", "DebertaV2Config", DEBERTA),
}


def make(name: str, folder: object, **overrides: object) -> torch.nn.Module:
    """Saves a seeded random model of a case into `folder` and returns it."""
    model_name, config_name, changes = CASES[name]
    kind = getattr(transformers, config_name)
    config = kind(**{**TINY, **changes, **overrides})
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(config).eval()
    std = 0.1 if "d_kv" in changes else 0.2  # T5 does not scale its scores
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases start as ones and zeros, which hides errors
            parameter.copy_(torch.randn_like(parameter) * std + (parameter == 1))
    model.save_pretrained(folder)
    return model
