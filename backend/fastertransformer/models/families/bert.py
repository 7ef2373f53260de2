# SPDX-License-Identifier: BSD-3-Clause
"""BERT and the encoders with its layers: RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT."""

from dataclasses import replace

from ..encoding.spec import EncodingSpec, HeadSpec, LayerSpec, Rows, Width
from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Positions, Residual
from .base import Family, activation, decoder

NAMES = {
    "embedding": "bert.embeddings.word_embeddings",
    "positions": "bert.embeddings.position_embeddings",
    "token_types": "bert.embeddings.token_type_embeddings",
    "embedding_norm": "bert.embeddings.LayerNorm",
    "q": "bert.encoder.layer.{layer}.attention.self.query",
    "k": "bert.encoder.layer.{layer}.attention.self.key",
    "v": "bert.encoder.layer.{layer}.attention.self.value",
    "output": "bert.encoder.layer.{layer}.attention.output.dense",
    "norm1": "bert.encoder.layer.{layer}.attention.output.LayerNorm",
    "up": "bert.encoder.layer.{layer}.intermediate.dense",
    "down": "bert.encoder.layer.{layer}.output.dense",
    "norm2": "bert.encoder.layer.{layer}.output.LayerNorm",
}
_BERT_HEADS = {
    "pooler": "bert.pooler.dense",
    "classifier": "classifier",
    "span": "qa_outputs",
    "next_sentence": "cls.seq_relationship",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "decoder": "cls.predictions.decoder",
    "vocabulary": "cls.predictions",
}
_ROBERTA_HEADS = {
    "pooler": "roberta.pooler.dense",
    "classifier_dense": "classifier.dense",
    "classifier_out": "classifier.out_proj",
    "classifier": "classifier",
    "span": "qa_outputs",
    "transform": "lm_head.dense",
    "transform_norm": "lm_head.layer_norm",
    "decoder": "lm_head.decoder",
    "vocabulary": "lm_head",
}
_DISTILBERT_NAMES = {
    "embedding": "distilbert.embeddings.word_embeddings",
    "positions": "distilbert.embeddings.position_embeddings",
    "embedding_norm": "distilbert.embeddings.LayerNorm",
    "q": "distilbert.transformer.layer.{layer}.attention.q_lin",
    "k": "distilbert.transformer.layer.{layer}.attention.k_lin",
    "v": "distilbert.transformer.layer.{layer}.attention.v_lin",
    "output": "distilbert.transformer.layer.{layer}.attention.out_lin",
    "norm1": "distilbert.transformer.layer.{layer}.sa_layer_norm",
    "up": "distilbert.transformer.layer.{layer}.ffn.lin1",
    "down": "distilbert.transformer.layer.{layer}.ffn.lin2",
    "norm2": "distilbert.transformer.layer.{layer}.output_layer_norm",
    "classifier_dense": "pre_classifier",
    "classifier": "classifier",
    "span": "qa_outputs",
    "transform": "vocab_transform",
    "transform_norm": "vocab_layer_norm",
    "decoder": "vocab_projector",
    "vocabulary": "vocab_projector",
}
_CLASSIFIER = LayerSpec("classifier", width=Width.LABELS)
_POOLER = LayerSpec("pooler", "tanh")
TOKEN_CLASSES = HeadSpec("token_logits", Rows.TOKENS, (_CLASSIFIER,))
SPAN = HeadSpec("span_logits", Rows.TOKENS, (LayerSpec("span", width=Width.LABELS),))


def renamed(names: dict[str, str], old: str, new: str) -> dict[str, str]:
    """Of a family whose names begin otherwise and are the same behind that."""
    return {role: name.replace(old, new, 1) for role, name in names.items()}


def masked_lm(kind: str, width: Width = Width.HIDDEN) -> HeadSpec:
    """Logits over the vocabulary for every token, behind an activation of `kind` and a norm."""
    layers = (
        LayerSpec("transform", kind, norm="transform_norm", width=width),
        LayerSpec("vocabulary", width=Width.VOCABULARY),
    )
    return HeadSpec("vocabulary_logits", Rows.TOKENS, layers)


def named_token_classes() -> HeadSpec:
    """Of files whose weights do not say what it is that they classify, those whose `architectures` do."""
    return replace(TOKEN_CLASSES, architecture="ForTokenClassification")


def labels(config: HFConfig) -> tuple[str, ...]:
    """Names of the classes, two where the config has none."""
    names = config.section("id2label")
    count = config.integer("num_labels", 2)
    return tuple(names.text(str(index)) for index in range(len(list(names)))) or tuple(
        f"LABEL_{index}" for index in range(count)
    )


def _post_norm(config: HFConfig, kind: str, eps: float, offset: int = 0) -> ModelSpec:
    config.only("position_embedding_type", "absolute")
    config.only("is_decoder", False)
    return decoder(
        config,
        norm=Norm.LAYER,
        norm_eps=eps,
        activation=kind,
        max_position_embeddings=config.integer("max_position_embeddings") - offset,
        positions=Positions.LEARNED,
        position_offset=offset,
        embedding_norm=True,
        residual=Residual.POST,
        final_norm=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


def bert(config: HFConfig) -> ModelSpec:
    return _post_norm(
        config, activation(config, "hidden_act", "gelu"), config.number("layer_norm_eps", 1e-12)
    )


def roberta(config: HFConfig) -> ModelSpec:
    """Positions begin behind that of the padding."""
    (padding,) = config.token_ids("pad_token_id") or (1,)
    kind, eps = activation(config, "hidden_act", "gelu"), config.number("layer_norm_eps", 1e-12)
    return _post_norm(config, kind, eps, padding + 1)


def distilbert(config: HFConfig) -> ModelSpec:
    return _post_norm(config, activation(config, "activation", "gelu"), 1e-12)


def bert_encoding(config: HFConfig) -> EncodingSpec:
    heads = (
        HeadSpec("pooled_output", Rows.FIRST, (_POOLER,)),
        named_token_classes(),
        HeadSpec("logits", Rows.FIRST, (_POOLER, _CLASSIFIER)),
        TOKEN_CLASSES,
        SPAN,
        HeadSpec("next_sentence_logits", Rows.FIRST, (_POOLER, LayerSpec("next_sentence", width=Width.TWO))),
        masked_lm(activation(config, "hidden_act", "gelu")),
    )
    return _encoding(config, heads)


def roberta_encoding(config: HFConfig) -> EncodingSpec:
    classes = (LayerSpec("classifier_dense", "tanh"), LayerSpec("classifier_out", width=Width.LABELS))
    heads = (
        HeadSpec("pooled_output", Rows.FIRST, (_POOLER,)),
        HeadSpec("logits", Rows.FIRST, classes),
        TOKEN_CLASSES,
        SPAN,
        masked_lm("gelu"),
    )
    return _encoding(config, heads)


def distilbert_encoding(config: HFConfig) -> EncodingSpec:
    classes = (LayerSpec("classifier_dense", "relu"), _CLASSIFIER)
    heads = (
        HeadSpec("logits", Rows.FIRST, classes),
        TOKEN_CLASSES,
        SPAN,
        masked_lm(activation(config, "activation", "gelu")),
    )
    return replace(_encoding(config, heads), num_token_types=0)


def _encoding(config: HFConfig, heads: tuple[HeadSpec, ...]) -> EncodingSpec:
    return EncodingSpec(
        num_token_types=config.integer("type_vocab_size", 2),
        heads=heads,
        labels=labels(config),
        architectures=tuple(config.texts("architectures")),
    )


_IGNORED = (r"\.position_ids$", r"\.token_type_ids$")
BERT = Family(bert, {**NAMES, **_BERT_HEADS}, prefix="bert.", encoding=bert_encoding, ignored=_IGNORED)
ROBERTA_NAMES = {**renamed(NAMES, "bert.", "roberta."), **_ROBERTA_HEADS}
ROBERTA = Family(
    roberta,
    ROBERTA_NAMES,
    prefix="roberta.",
    encoding=roberta_encoding,
    ignored=_IGNORED,
)
DISTILBERT = Family(
    distilbert,
    _DISTILBERT_NAMES,
    prefix="distilbert.",
    config_names={
        "dim": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "hidden_dim": "intermediate_size",
    },
    encoding=distilbert_encoding,
    ignored=_IGNORED,
)
