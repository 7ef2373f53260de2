# SPDX-License-Identifier: BSD-3-Clause
"""DeBERTa v2 and v3: disentangled attention in BERT's layers. (arXiv 2006.03654, 2111.09543)"""

from ...errors import ModelLoadError
from ..encoding.spec import ConvolutionSpec, Disentangled, EncodingSpec, HeadSpec, LayerSpec, Rows, Width
from ..hf_config import HFConfig
from ..spec import ModelSpec, Norm, Positions, Residual
from .base import Family, activation, decoder
from .bert import SPAN, TOKEN_CLASSES, labels, masked_lm, named_token_classes

NAMES = {
    "embedding": "deberta.embeddings.word_embeddings",
    "positions": "deberta.embeddings.position_embeddings",
    "token_types": "deberta.embeddings.token_type_embeddings",
    "project_in": "deberta.embeddings.embed_proj",
    "embedding_norm": "deberta.embeddings.LayerNorm",
    "relative": "deberta.encoder.rel_embeddings",
    "relative_norm": "deberta.encoder.LayerNorm",
    "convolution": "deberta.encoder.conv.conv",
    "convolution_norm": "deberta.encoder.conv.LayerNorm",
    "q": "deberta.encoder.layer.{layer}.attention.self.query_proj",
    "k": "deberta.encoder.layer.{layer}.attention.self.key_proj",
    "v": "deberta.encoder.layer.{layer}.attention.self.value_proj",
    "position_q": "deberta.encoder.layer.{layer}.attention.self.pos_query_proj",
    "position_k": "deberta.encoder.layer.{layer}.attention.self.pos_key_proj",
    "output": "deberta.encoder.layer.{layer}.attention.output.dense",
    "norm1": "deberta.encoder.layer.{layer}.attention.output.LayerNorm",
    "up": "deberta.encoder.layer.{layer}.intermediate.dense",
    "down": "deberta.encoder.layer.{layer}.output.dense",
    "norm2": "deberta.encoder.layer.{layer}.output.LayerNorm",
    "pooler": "pooler.dense",
    "classifier": "classifier",
    "span": "qa_outputs",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "decoder": "cls.predictions.decoder",
    "vocabulary": "cls.predictions",
    "new_transform": "lm_predictions.lm_head.dense",
    "new_transform_norm": "lm_predictions.lm_head.LayerNorm",
    "new_vocabulary": "lm_predictions.lm_head",
}


def deberta(config: HFConfig) -> ModelSpec:
    hidden_size = config.integer("hidden_size")
    config.only("attention_head_size", hidden_size // config.integer("num_attention_heads"))
    embedding_size = config.integer("embedding_size", hidden_size)
    has_positions = config.flag("position_biased_input", True)
    return decoder(
        config,
        norm=Norm.LAYER,
        norm_eps=config.number("layer_norm_eps", 1e-7),
        activation=activation(config, "hidden_act", "gelu"),
        embedding_size=0 if embedding_size == hidden_size else embedding_size,
        positions=Positions.LEARNED if has_positions else Positions.NONE,
        embedding_norm=True,
        residual=Residual.POST,
        final_norm=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
    )


def deberta_encoding(config: HFConfig) -> EncodingSpec:
    kind = activation(config, "hidden_act", "gelu")
    config.only("pooler_hidden_size", config.integer("hidden_size"))
    pooler = LayerSpec("pooler", activation(config, "pooler_hidden_act", "gelu"))
    new_masked_lm = HeadSpec(
        "vocabulary_logits",
        Rows.TOKENS,
        (
            LayerSpec("new_transform", kind, norm="new_transform_norm"),
            LayerSpec("new_vocabulary", width=Width.VOCABULARY),
        ),
    )
    return EncodingSpec(
        num_token_types=_count(config, "type_vocab_size", 0),
        heads=(
            HeadSpec("pooled_output", Rows.FIRST, (pooler,)),
            named_token_classes(),
            HeadSpec("logits", Rows.FIRST, (pooler, LayerSpec("classifier", width=Width.LABELS))),
            TOKEN_CLASSES,
            SPAN,
            masked_lm(kind, Width.EMBEDDING),
            new_masked_lm,
        ),
        disentangled=_disentangled(config),
        convolution=_convolution(config),
        labels=labels(config),
        architectures=tuple(config.texts("architectures")),
    )


def _disentangled(config: HFConfig) -> Disentangled | None:
    parts, is_relative = _parts(config), config.flag("relative_attention", False)
    if parts and not is_relative:  # transformers scales scores by parts that are not there
        raise ModelLoadError(
            f"pos_att_type names {', '.join(parts)}; allowed is none without relative_attention"
        )
    if not is_relative:
        return None
    if unknown := set(parts) - {"c2p", "p2c"}:
        raise ModelLoadError(f"pos_att_type names {', '.join(sorted(unknown))}; supported are c2p and p2c")
    longest = config.number("max_relative_positions", -1)
    return Disentangled(
        num_buckets=_count(config, "position_buckets", -1),
        max_distance=int(longest) if longest >= 1 else config.integer("max_position_embeddings"),
        content_to_position="c2p" in parts,
        position_to_content="p2c" in parts,
        shared=config.flag("share_att_key", False),
        normed="layer_norm" in config.text("norm_rel_ebd", "none").lower(),
    )


def _convolution(config: HFConfig) -> ConvolutionSpec | None:
    width = _count(config, "conv_kernel_size", 0)
    if not width:
        return None
    if width % 2 == 0:
        raise ModelLoadError(f"conv_kernel_size is {width}; supported are odd numbers")
    config.only("conv_groups", 1)
    kinds = {"tanh": "tanh", "gelu": "gelu", "relu": "relu"}
    return ConvolutionSpec(width, config.choice("conv_act", kinds, "tanh"))


def _parts(config: HFConfig) -> list[str]:
    """A list, or as published a text with bars."""
    value = config.raw("pos_att_type")
    return value.lower().split("|") if isinstance(value, str) else list(value or [])


def _count(config: HFConfig, key: str, default: int) -> int:
    """An integer of which published configs say -1 or 0 for none."""
    return max(int(config.number(key, default)), 0)


DEBERTA = Family(
    deberta,
    NAMES,
    prefix="deberta.",
    encoding=deberta_encoding,
    ignored=(r"\.position_ids$", r"^mask_predictions\."),
)
