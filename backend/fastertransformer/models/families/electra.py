# SPDX-License-Identifier: BSD-3-Clause
"""ELECTRA's discriminators: BERT without a pooler, with a classifier of its own."""

from dataclasses import replace

from ..encoding.spec import EncodingSpec, HeadSpec, LayerSpec, Rows, Width
from ..hf_config import HFConfig
from ..spec import ModelSpec
from .bert import BERT, NAMES, SPAN, TOKEN_CLASSES, bert, bert_encoding, renamed

_HEADS = {
    "classifier_dense": "classifier.dense",
    "classifier_out": "classifier.out_proj",
    "classifier": "classifier",
    "span": "qa_outputs",
}


def electra(config: HFConfig) -> ModelSpec:
    """Small ones and generators embed in fewer dimensions, with a norm and a bias around a projection."""
    config.completed(embedding_size=128).only("embedding_size", config.integer("hidden_size"))
    return bert(config)


def electra_encoding(config: HFConfig) -> EncodingSpec:
    classes = (LayerSpec("classifier_dense", "gelu"), LayerSpec("classifier_out", width=Width.LABELS))
    heads = (HeadSpec("logits", Rows.FIRST, classes), TOKEN_CLASSES, SPAN)
    return replace(bert_encoding(config), heads=heads)


ELECTRA = replace(
    BERT,
    spec=electra,
    names={**renamed(NAMES, "bert.", "electra."), **_HEADS},
    prefix="electra.",
    encoding=electra_encoding,
    ignored=(*BERT.ignored, r"^discriminator_predictions\."),
)
