# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's encoders (bert, deberta): transformers' names under another prefix, matrices [in, out].

Its own bert is nothing but layers. What lies around them has files too, which the old service does not read.
"""

import math
from dataclasses import replace

from ....errors import ModelLoadError
from ...encoding.spec import EncodingSpec
from ...hf_config import HFConfig
from ...spec import ModelSpec
from .. import bert as bert_family
from .. import deberta as deberta_family
from ..base import Family

_PREFIX = "model."
_SCORE_PARTS = 3
"""Of DeBERTa: contents, and contents with positions either way."""


def bert(config: HFConfig) -> ModelSpec:
    spec = bert_family.bert(_sized(config))
    scaling = config.number("q_scaling", 1.0)
    if scaling <= 0:
        raise ModelLoadError(f"{config.source}: q_scaling is {scaling}; allowed is > 0")
    return spec if scaling == 1.0 else replace(spec, attention_scale=spec.head_dim**-0.5 / scaling)


def deberta(config: HFConfig) -> ModelSpec:
    wanted = math.sqrt(_SCORE_PARTS)
    scaling = config.number("q_scaling", wanted)
    if not math.isclose(scaling, wanted, rel_tol=1e-3):
        raise ModelLoadError(f"{config.source}: q_scaling is {scaling}; only {wanted} is supported")
    return deberta_family.deberta(_sized(config))


def deberta_encoding(config: HFConfig) -> EncodingSpec:
    return deberta_family.deberta_encoding(_sized(config))


def _sized(config: HFConfig) -> HFConfig:
    """With the hidden size, which not every converter wrote."""
    heads, head_dim = config.integer("num_attention_heads"), config.integer("size_per_head")
    size = config.integer("hidden_size", heads * head_dim)
    if size != heads * head_dim:
        raise ModelLoadError(
            f"{config.source}: hidden_size is {size}; allowed is head_num * size_per_head, which is"
            f" {heads} * {head_dim}"
        )
    return config.completed(hidden_size=size)


def _stored(family: Family) -> Family:
    names = {role: str(name).replace(family.prefix, _PREFIX, 1) for role, name in family.names.items()}
    return replace(family, names=names, prefix="", transposed=True, ignored=())


BERT = replace(_stored(bert_family.BERT), spec=bert)
DEBERTA = replace(_stored(deberta_family.DEBERTA), spec=deberta, encoding=deberta_encoding)
