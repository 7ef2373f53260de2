# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's files of encoders and encoder-decoders, as converters of NVIDIA and of its fork write
them from transformers models: independent of what the package reads and writes."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastertransformer_files import State, save, split, stacked
from torch import Tensor

Sections = dict[str, dict[str, Any]]
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def write(
    folder: Path, model: torch.nn.Module, shards: int, dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """The folder `<shards>-gpu` in `folder`. Args: changes: of keys of config.ini, by section."""
    target = folder / f"{shards}-gpu"
    target.mkdir(parents=True)
    sections, files = WRITERS[model.config.model_type](model.config, model.state_dict(), shards)
    lines = []
    for name, values in sections.items():
        own = {**values, "weight_data_type": TYPES[dtype], **changes.get(name, {})}
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in own.items()), ""]
    (target / "config.ini").write_text("\n".join(lines))
    for name, tensor in files.items():
        save(target / f"{name}.bin", tensor, dtype)
    return target


def column(name: str, tensor: Tensor, shards: int) -> State:
    """An [out, in] matrix or a bias, cut by outputs, as [in, out]."""
    return split(name, tensor.T if tensor.dim() == 2 else tensor, shards, -1)


def row(name: str, tensor: Tensor, shards: int) -> State:
    """An [out, in] matrix cut by inputs, as [in, out]."""
    return split(name, tensor.T, shards, 0)


# T5


def t5(config: Any, state: State, shards: int) -> tuple[Sections, State]:
    words = state["shared.weight"]
    files = {"shared.weight_T": words, "shared.weight": words.T}
    if "lm_head.weight" in state:
        files["lm_head.weight"] = state["lm_head.weight"]
    for name, tensor in state.items():
        if ".layer_norm." in name or "final_layer_norm" in name:
            files[name] = tensor
        elif "relative_attention_bias" in name:
            files |= split(name, tensor.T, shards, 0)
        elif name.endswith((".o.weight", ".wo.weight")):
            files |= row(name, tensor, shards)
        elif ".wi" in name:
            files |= column(name.replace("wi_0", "wi").replace("wi_1", "wi2"), tensor, shards)
        elif "EncDecAttention" in name or name.startswith("encoder.block"):
            files |= column(name, tensor, shards)
        elif name.endswith("SelfAttention.q.weight"):
            stem = name.removesuffix("q.weight")
            qkv = stacked(*(state[f"{stem}{role}.weight"] for role in "qkv"))
            files |= split(f"{stem}qkv.weight", qkv, shards, -1)
    sections = {"encoder": _t5_section(config, config.num_layers), "decoder": {}}
    if any(name.startswith("decoder.block") for name in state):
        sections["decoder"] = _t5_section(config, config.num_decoder_layers)
    gated = int(config.is_gated_act)
    sections["structure"] = {"t5_with_bias": "false", "use_gated_activation": gated}
    sections["structure"]["position_embedding_type"] = "relative"
    return sections, files


def _t5_section(config: Any, layers: int) -> dict[str, Any]:
    names = ("d_model", "d_kv", "d_ff", "num_heads", "vocab_size", "feed_forward_proj", "layer_norm_epsilon")
    names += ("relative_attention_max_distance", "eos_token_id")
    more = {
        "num_layers": layers,
        "decoder_start_token_id": 0,
        "model_type": config.model_type,
        "architectures": ["T5"],
        "id2label": {0: "LABEL_0"},
        "bos_token_id": None,
    }
    more["relative_attention_num_buckets_or_max_pos_seq_len"] = config.relative_attention_num_buckets
    # What transformers calls scale_decoder_outputs now, it said by tie_word_embeddings then.
    more["tie_word_embeddings"] = getattr(config, "scale_decoder_outputs", False)
    return {**{name: getattr(config, name) for name in names}, **more}


def write_ia3(place: Path, model: torch.nn.Module, shards: int, num_tasks: int) -> list[torch.nn.Module]:
    """Adds factors of tasks to what `write` wrote, as NeMo's converter does; the model with those of each."""
    generator = torch.Generator().manual_seed(1)
    tasks = [copy.deepcopy(model) for _ in range(num_tasks)]
    for name, weight in model.state_dict().items():
        if not name.endswith(("Attention.k.weight", "Attention.v.weight", ".wo.weight")):
            continue
        is_inner = name.endswith(".wo.weight")
        factors = 1 + 0.5 * torch.randn(num_tasks, weight.shape[is_inner], generator=generator)
        stem = name.removesuffix(".wo.weight" if is_inner else ".weight")
        for file, part in split(f"{stem}.ia3.weight", factors, shards, -1).items():
            save(place / f"{file}.bin", part, torch.float32)
        for task, own in zip(tasks, factors, strict=True):
            task.state_dict()[name].mul_(own if is_inner else own[:, None])
    return tasks


# BART, mBART, M2M100


def bart(config: Any, state: State, shards: int) -> tuple[Sections, State]:
    is_m2m = config.model_type == "m2m_100"
    factor = config.d_model**0.5 if config.scale_embedding else 1.0
    words = state["model.shared.weight"]
    files = {"decoder.lm_head.weight": state.get("lm_head.weight", words)}
    if not is_m2m:
        files["decoder.final_logits_bias"] = state["final_logits_bias"]
    for stack in ("encoder", "decoder"):
        files[f"{stack}.embed_tokens.weight"] = words * factor
        if not is_m2m:
            files[f"{stack}.embed_positions.weight"] = state[f"model.{stack}.embed_positions.weight"][2:]
        outer = {"layernorm_embedding": "final_layer_norm", "layer_norm": "layer_norm"}
        for there, here in outer.items():
            for suffix in ("weight", "bias"):
                if f"model.{stack}.{there}.{suffix}" in state:
                    files[f"{stack}.{here}.{suffix}"] = state[f"model.{stack}.{there}.{suffix}"]
        for layer in range(getattr(config, f"{stack}_layers")):
            files |= _bart_layer(state, f"model.{stack}.layers.{layer}", f"{stack}.{layer}.layer", shards)
    return {stack: _bart_section(config, stack) for stack in ("encoder", "decoder")}, files


def _bart_layer(state: State, there: str, here: str, shards: int) -> State:
    files: State = {}
    for suffix in ("weight", "bias"):
        for norm, place in (("self_attn_layer_norm", "attn_layer_norm"), ("final_layer_norm",) * 2):
            files[f"{here}.SelfAttention.{place}.{suffix}"] = state[f"{there}.{norm}.{suffix}"]
        parts = [state[f"{there}.self_attn.{role}_proj.{suffix}"] for role in "qkv"]
        if here.startswith("decoder"):
            files |= split(f"{here}.SelfAttention.qkv.{suffix}", stacked(*parts), shards, -1)
            norm = f"{here}.CrossAttention.attn_layer_norm.{suffix}"
            files[norm] = state[f"{there}.encoder_attn_layer_norm.{suffix}"]
            cross = [state[f"{there}.encoder_attn.{role}_proj.{suffix}"] for role in "qkv"]
            for role, part in zip("qkv", cross, strict=True):
                files |= column(f"{here}.CrossAttention.{role}.{suffix}", part, shards)
        else:
            for role, part in zip("qkv", parts, strict=True):
                files |= column(f"{here}.SelfAttention.{role}.{suffix}", part, shards)
        files |= column(f"{here}.SelfAttention.fc1.{suffix}", state[f"{there}.fc1.{suffix}"], shards)
    outputs = {"SelfAttention.out_proj": "self_attn.out_proj", "SelfAttention.fc2": "fc2"}
    if here.startswith("decoder"):
        outputs["CrossAttention.out_proj"] = "encoder_attn.out_proj"
    for place, name in outputs.items():
        files |= row(f"{here}.{place}.weight", state[f"{there}.{name}.weight"], shards)
        for rank in range(shards):
            files[f"{here}.{place}.bias.{rank}"] = state[f"{there}.{name}.bias"]
    return files


def _bart_section(config: Any, stack: str) -> dict[str, Any]:
    heads = getattr(config, f"{stack}_attention_heads")
    values = {
        "num_heads": heads,
        "d_kv": config.d_model // heads,
        "d_model": config.d_model,
        "d_ff": getattr(config, f"{stack}_ffn_dim"),
        "num_layers": getattr(config, f"{stack}_layers"),
        "vocab_size": config.vocab_size,
        "max_pos_seq_len": config.max_position_embeddings,
    }
    if stack == "decoder":
        ids = {name: getattr(config, name) for name in ("decoder_start_token_id", "eos_token_id")}
        return values | ids
    values |= {"model_name": config.model_type, "feed_forward_proj": config.activation_function}
    is_mbart = {"mbart": str(config.model_type == "mbart").lower()}
    return values | (is_mbart if config.model_type != "m2m_100" else {})


# BERT, DeBERTa


def encoder(config: Any, state: State, shards: int) -> tuple[Sections, State]:
    """The layers, and of DeBERTa what lies around them."""
    files: State = {}
    is_bert = config.model_type == "bert"
    for name, tensor in state.items():
        if "layer." not in name:
            files |= {} if is_bert else {f"model.{name}": tensor}
        elif "attention.self" in name or "intermediate" in name:
            files |= column(f"model.{name}", tensor, shards)
        elif name.endswith("dense.weight"):
            files |= row(f"model.{name}", tensor, shards)
        else:
            files[f"model.{name}"] = tensor
    values = {
        "model_name": config.model_type,
        "head_num": config.num_attention_heads,
        "size_per_head": config.hidden_size // config.num_attention_heads,
        "inter_size": config.intermediate_size,
        "num_layer": config.num_hidden_layers,
        "activation_type": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
    }
    if is_bert:
        return {"bert": values}, files
    values |= {
        "vocab_size": config.vocab_size,
        "max_relative_positions": config.max_position_embeddings,
        "relative_position_buckets": config.position_buckets,
    }
    return {"deberta": values}, files


WRITERS: dict[str, Callable[[Any, State, int], tuple[Sections, State]]] = {
    "t5": t5,
    "mt5": t5,
    "bart": bart,
    "mbart": bart,
    "bert": encoder,
    "deberta-v2": encoder,
}
