# SPDX-License-Identifier: BSD-3-Clause
"""Model families as data: a spec made from a config.json, and where each weight lies in a checkpoint."""

from .base import Family
from .bert import BERT, DISTILBERT, ROBERTA
from .bloom import BLOOM
from .deberta import DEBERTA
from .falcon import FALCON
from .gemma import GEMMA, GEMMA2, GEMMA3
from .gpt2 import GPT2
from .gpt_bigcode import GPT_BIGCODE
from .gpt_neo import GPT_NEO
from .gpt_neox import GPT_NEOX
from .gptj import CODEGEN, GPTJ
from .llama import LLAMA, MISTRAL, QWEN2, QWEN3
from .moe import MIXTRAL, QWEN2_MOE, QWEN3_MOE
from .mpt import MPT
from .olmo import OLMO
from .opt import OPT
from .phi import PHI
from .phi3 import PHI3
from .stablelm import STABLELM
from .starcoder2 import STARCODER2
from .xglm import XGLM

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "bloom": BLOOM,
    "camembert": ROBERTA,
    "codegen": CODEGEN,
    "deberta-v2": DEBERTA,
    "distilbert": DISTILBERT,
    "falcon": FALCON,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gpt2": GPT2,
    "gpt_bigcode": GPT_BIGCODE,
    "gpt_neo": GPT_NEO,
    "gpt_neox": GPT_NEOX,
    "gptj": GPTJ,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mixtral": MIXTRAL,
    "mpt": MPT,
    "olmo": OLMO,
    "opt": OPT,
    "phi": PHI,
    "phi3": PHI3,
    "qwen2": QWEN2,
    "qwen2_moe": QWEN2_MOE,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "roberta": ROBERTA,
    "stablelm": STABLELM,
    "starcoder2": STARCODER2,
    "xglm": XGLM,
    "xlm-roberta": ROBERTA,
}
"""By the `model_type` of a Hugging Face config.json."""

SERVICE_NAMES: dict[str, frozenset[str]] = {
    "bert": frozenset({"bert", "roberta", "xlm-roberta", "camembert", "distilbert"}),
    "deberta": frozenset({"deberta-v2"}),
    "gpt": frozenset({"gpt2", "opt", "bloom", "xglm"}),
    "gpt-j": frozenset({"gptj"}),
    "gpt-neox": frozenset({"gpt_neox"}),
    "llama": frozenset({"llama", "mistral"}),
}
"""The parameter model_type of the old service, in lower case, and the checkpoints that it stands for."""
