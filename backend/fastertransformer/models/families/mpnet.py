# SPDX-License-Identifier: BSD-3-Clause
"""MPNet: RoBERTa's layers and a bias by distance, which all layers share."""

from dataclasses import replace

from ...layers.position import RelativeBias
from ..encoding.spec import EncodingSpec
from ..hf_config import HFConfig
from ..spec import ModelSpec
from .bert import ROBERTA, ROBERTA_NAMES, renamed, roberta, roberta_encoding

_LAYER = "mpnet.encoder.layer.{layer}"
NAMES = {
    **renamed(ROBERTA_NAMES, "roberta.", "mpnet."),
    "q": f"{_LAYER}.attention.attn.q",
    "k": f"{_LAYER}.attention.attn.k",
    "v": f"{_LAYER}.attention.attn.v",
    "output": f"{_LAYER}.attention.attn.o",
    "norm1": f"{_LAYER}.attention.LayerNorm",
    "relative_bias": "mpnet.encoder.relative_attention_bias",
}
_BUCKETS, _FARTHEST = 32, 128
"""What transformers computes with, whatever the config says."""


def mpnet(config: HFConfig) -> ModelSpec:
    config.only("relative_attention_num_buckets", _BUCKETS)
    config.only("pad_token_id", 1)  # positions begin behind 1 in any case
    return replace(roberta(config), relative_bias=RelativeBias(_BUCKETS, _FARTHEST, is_shared=True))


def mpnet_encoding(config: HFConfig) -> EncodingSpec:
    return replace(roberta_encoding(config), num_token_types=0)


MPNET = replace(ROBERTA, spec=mpnet, names=NAMES, prefix="mpnet.", encoding=mpnet_encoding)
