# SPDX-License-Identifier: BSD-3-Clause
"""Model families as data: a spec made from a config.json, and where each weight lies in a checkpoint."""

from .bart import BART, M2M_100, MARIAN, MBART, PEGASUS
from .base import Family
from .bert import BERT, DISTILBERT, ROBERTA
from .bloom import BLOOM
from .cohere import COHERE, COHERE2
from .deberta import DEBERTA
from .electra import ELECTRA
from .falcon import FALCON
from .fastertransformer import CLASSES, PREFIX
from .fastertransformer import T5_ENCODER as OWN_T5_ENCODER
from .gemma import GEMMA, GEMMA2, GEMMA3
from .gpt2 import GPT2
from .gpt_bigcode import GPT_BIGCODE
from .gpt_neo import GPT_NEO
from .gpt_neox import GPT_NEOX
from .gptj import CODEGEN, GPTJ
from .granite import GRANITE
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3
from .moe import MIXTRAL, QWEN2_MOE, QWEN3_MOE
from .mpnet import MPNET
from .mpt import MPT
from .olmo import OLMO
from .opt import OPT
from .phi import PHI
from .phi3 import PHI3
from .smollm3 import SMOLLM3
from .stablelm import STABLELM
from .starcoder2 import STARCODER2
from .t5 import MT5, MT5_ENCODER, T5, T5_ENCODER, UMT5, UMT5_ENCODER
from .xglm import XGLM

FAMILIES: dict[str, Family] = {
    "bart": BART,
    "bert": BERT,
    "bloom": BLOOM,
    "camembert": ROBERTA,
    "codegen": CODEGEN,
    "cohere": COHERE,
    "cohere2": COHERE2,
    "deberta-v2": DEBERTA,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "falcon": FALCON,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gpt2": GPT2,
    "gpt_bigcode": GPT_BIGCODE,
    "gpt_neo": GPT_NEO,
    "gpt_neox": GPT_NEOX,
    "gptj": GPTJ,
    "granite": GRANITE,
    "llama": LLAMA,
    "m2m_100": M2M_100,
    "marian": MARIAN,
    "mbart": MBART,
    "mistral": MISTRAL,
    "mixtral": MIXTRAL,
    "mpnet": MPNET,
    "mpt": MPT,
    "olmo": OLMO,
    "opt": OPT,
    "mt5": MT5,
    "pegasus": PEGASUS,
    "phi": PHI,
    "phi3": PHI3,
    "qwen2": QWEN2,
    "qwen2_moe": QWEN2_MOE,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "roberta": ROBERTA,
    "smollm3": SMOLLM3,
    "stablelm": STABLELM,
    "starcoder2": STARCODER2,
    "t5": T5,
    "umt5": UMT5,
    "xglm": XGLM,
    "xlm-roberta": ROBERTA,
    **{PREFIX + name: family for name, family in CLASSES.items()},
}
"""By the `model_type` of a Hugging Face config.json; FasterTransformer's own have a prefix."""

ENCODERS: dict[str, Family] = {
    "mt5": MT5_ENCODER,
    "t5": T5_ENCODER,
    "umt5": UMT5_ENCODER,
    PREFIX + "t5": OWN_T5_ENCODER,
}
"""The same for encoders of encoder-decoders that are to serve alone."""

ENCODER_ALONE = "t5-encoder"
"""The name in SERVICE_NAMES that stands for ENCODERS."""

SERVICE_NAMES: dict[str, frozenset[str]] = {
    "bert": frozenset(
        {"bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "distilbert", PREFIX + "bert"}
    ),
    "deberta": frozenset({"deberta-v2", PREFIX + "deberta"}),
    "gpt": frozenset({"gpt2", "opt", "bloom", "xglm", PREFIX + "gpt"}),
    "gpt-j": frozenset({"gptj", PREFIX + "gptj"}),
    "gpt-neox": frozenset({"gpt_neox", PREFIX + "gptneox"}),
    "bart": frozenset({"bart", "mbart", PREFIX + "bart"}),
    "m2m": frozenset({"m2m_100", PREFIX + "m2m"}),
    "t5": frozenset({"t5", "mt5", "umt5", PREFIX + "t5"}),
    "llama": frozenset({"llama", "mistral", PREFIX + "llama"}),
    ENCODER_ALONE: frozenset(ENCODERS),
}
"""The parameter model_type of the old service, in lower case, and the checkpoints that it stands for."""
