# SPDX-License-Identifier: BSD-3-Clause
"""FasterTransformer's files written from transformers models as NVIDIA's converters write them: independent
of what the package reads and writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
NORMS = ("input_layernorm", "post_attention_layernorm")


def write(
    folder: Path, model: torch.nn.Module, shards: int, dtype: torch.dtype = torch.float32, **config: object
) -> Path:
    """The folder `<shards>-gpu` in `folder`. Args: config: keys of config.ini that are set otherwise."""
    target = folder / f"{shards}-gpu"
    target.mkdir(parents=True)
    kind = model.config.model_type
    section, values, files = WRITERS[kind](model.config, model.state_dict(), shards)
    types = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    values = {**values, "weight_data_type": types[dtype], **config}
    lines = [f"{key} = {value}" for key, value in values.items()]
    (target / "config.ini").write_text("\n".join([f"[{section}]", *lines, ""]))
    for name, tensor in files.items():
        save(target / f"model.{name}.bin", tensor, dtype)
    return target


def save(path: Path, tensor: Tensor, dtype: torch.dtype) -> None:
    path.write_bytes(tensor.to(dtype).contiguous().view(torch.uint8).numpy().tobytes())


def split(name: str, tensor: Tensor, shards: int, axis: int) -> State:
    return {f"{name}.{rank}": part for rank, part in enumerate(tensor.chunk(shards, axis))}


def stacked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[H, 3, H] of weights, [3, H] of biases"""
    rows = torch.stack([q, k, v])
    return rows if rows.dim() == 2 else rows.permute(2, 0, 1)


def ungrouped(qkv: Tensor, heads: int) -> Tensor:
    """The same from [heads, 3, head_dim] rows."""
    parts = qkv.view(heads, 3, -1, *qkv.shape[1:]).transpose(0, 1).flatten(1, 2)
    return stacked(*parts)


def layer_files(layer: int, shards: int, qkv: State, tensors: State) -> State:
    """Args: qkv: weight and bias as files hold them. tensors: weights as [in, out], by their names here."""
    files: State = {}
    for suffix, tensor in qkv.items():
        files |= split(f"attention.query_key_value.{suffix}", tensor, shards, -1)
    for name, tensor in tensors.items():
        if name in ("attention.dense.weight", "mlp.dense_4h_to_h.weight", "mlp.down_proj.weight"):
            files |= split(name, tensor, shards, 0)
        elif name.startswith(("mlp.dense_h_to_4h", "mlp.gate_proj", "mlp.up_proj")):
            files |= split(name, tensor, shards, -1)
        else:
            files[name] = tensor
    return {f"layers.{layer}.{name}": tensor for name, tensor in files.items()}


def of_layer(state: State, prefix: str, names: dict[str, str], transposed: bool = True) -> State:
    """What lies under `prefix`, under the names here. Args: transposed: [out, in] becomes [in, out]."""
    found = {}
    for there, here in names.items():
        for suffix in ("weight", "bias"):
            tensor = state.get(f"{prefix}.{there}.{suffix}")
            if tensor is not None:
                found[f"{here}.{suffix}"] = tensor.T if tensor.dim() == 2 and transposed else tensor
    return found


def sizes(config: Any, inner: int) -> dict[str, Any]:
    return {
        "model_name": config.model_type,
        "head_num": config.num_attention_heads,
        "size_per_head": config.hidden_size // config.num_attention_heads,
        "inter_size": inner,
        "num_layer": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "start_id": config.bos_token_id,
        "end_id": config.eos_token_id,
    }


def gpt2(config: Any, state: State, shards: int) -> tuple[str, dict[str, Any], State]:
    size = config.n_embd
    files = {"wte": state["transformer.wte.weight"], "wpe": state["transformer.wpe.weight"]}
    files |= of_layer(state, "transformer", {"ln_f": "final_layernorm"})
    names = {
        "ln_1": NORMS[0],
        "ln_2": NORMS[1],
        "attn.c_proj": "attention.dense",
        "mlp.c_fc": "mlp.dense_h_to_4h",
        "mlp.c_proj": "mlp.dense_4h_to_h",
    }
    for layer in range(config.n_layer):
        prefix = f"transformer.h.{layer}"
        qkv = {
            "weight": state[f"{prefix}.attn.c_attn.weight"].view(size, 3, size),
            "bias": state[f"{prefix}.attn.c_attn.bias"].view(3, size),
        }
        files |= layer_files(layer, shards, qkv, of_layer(state, prefix, names, transposed=False))
    values = {"max_pos_seq_len": config.n_positions, "layernorm_eps": config.layer_norm_epsilon}
    return "gpt", {**sizes(config, 4 * size), **values}, files


def opt(config: Any, state: State, shards: int) -> tuple[str, dict[str, Any], State]:
    words = state["model.decoder.embed_tokens.weight"]
    files = {"wte": words, "lm_head.weight": words}
    files["wpe"] = state["model.decoder.embed_positions.weight"][2:]
    files |= of_layer(state, "model.decoder", {"final_layer_norm": "final_layernorm"})
    names = {
        "self_attn_layer_norm": NORMS[0],
        "final_layer_norm": NORMS[1],
        "self_attn.out_proj": "attention.dense",
        "fc1": "mlp.dense_h_to_4h",
        "fc2": "mlp.dense_4h_to_h",
    }
    for layer in range(config.num_hidden_layers):
        prefix = f"model.decoder.layers.{layer}"
        qkv = {
            suffix: stacked(*(state[f"{prefix}.self_attn.{role}_proj.{suffix}"] for role in "qkv"))
            for suffix in ("weight", "bias")
        }
        files |= layer_files(layer, shards, qkv, of_layer(state, prefix, names))
    values = {
        "max_pos_seq_len": config.max_position_embeddings,
        "layernorm_eps": "1e-5",
        "layernorm_type": "pre_layernorm" if config.do_layer_norm_before else "post_layernorm",
        "activation_type": "Relu",
        "has_post_decoder_layernorm": int("final_layernorm.bias" in files),
    }
    return "gpt", {**sizes(config, config.ffn_dim), **values}, files


def bloom(config: Any, state: State, shards: int) -> tuple[str, dict[str, Any], State]:
    files = {"wte": state["transformer.word_embeddings.weight"]}
    outer = {"ln_f": "final_layernorm", "word_embeddings_layernorm": "pre_decoder_layernorm"}
    files |= of_layer(state, "transformer", outer)
    names = {norm: norm for norm in NORMS} | {"self_attention.dense": "attention.dense"}
    names |= {name: name for name in ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")}
    for layer in range(config.n_layer):
        prefix = f"transformer.h.{layer}"
        qkv = {
            suffix: ungrouped(state[f"{prefix}.self_attention.query_key_value.{suffix}"], config.n_head)
            for suffix in ("weight", "bias")
        }
        files |= layer_files(layer, shards, qkv, of_layer(state, prefix, names))
    values = {
        "layernorm_eps": config.layer_norm_epsilon,
        "layernorm_type": "pre_layernorm",
        "activation_type": "Gelu",
        "has_positional_encoding": False,
        "has_pre_decoder_layernorm": True,
        "has_post_decoder_layernorm": True,
        "use_attention_linear_bias": True,
        "tensor_para_size": shards,
    }
    return "gpt", {**sizes(config, 4 * config.hidden_size), **values}, files


def gptj(config: Any, state: State, shards: int) -> tuple[str, dict[str, Any], State]:
    files = {"wte": state["transformer.wte.weight"]}
    files |= {f"lm_head.{suffix}": state[f"lm_head.{suffix}"] for suffix in ("weight", "bias")}
    files |= of_layer(state, "transformer", {"ln_f": "final_layernorm"})
    names = {
        "ln_1": NORMS[0],
        "attn.out_proj": "attention.dense",
        "mlp.fc_in": "mlp.dense_h_to_4h",
        "mlp.fc_out": "mlp.dense_4h_to_h",
    }
    for layer in range(config.n_layer):
        prefix = f"transformer.h.{layer}"
        qkv = {"weight": stacked(*(state[f"{prefix}.attn.{role}_proj.weight"] for role in "qkv"))}
        files |= layer_files(layer, shards, qkv, of_layer(state, prefix, names))
    return "gptj", {**sizes(config, 4 * config.n_embd), "rotary_embedding": config.rotary_dim}, files


def gpt_neox(config: Any, state: State, shards: int) -> tuple[str, dict[str, Any], State]:
    head = next(state[name] for name in ("embed_out.weight", "lm_head.weight") if name in state)
    files = {"wte": state["gpt_neox.embed_in.weight"], "lm_head.weight": head}
    files |= of_layer(state, "gpt_neox", {"final_layer_norm": "final_layernorm"})
    names = {norm: norm for norm in (*NORMS, "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")}
    for layer in range(config.num_hidden_layers):
        prefix, heads = f"gpt_neox.layers.{layer}", config.num_attention_heads
        qkv = {
            suffix: ungrouped(state[f"{prefix}.attention.query_key_value.{suffix}"], heads)
            for suffix in ("weight", "bias")
        }
        tensors = of_layer(state, prefix, names)
        if config.use_parallel_residual:
            for name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
                tensors[name] = tensors[name] / shards
            biases = tensors["attention.dense.bias"], tensors["mlp.dense_4h_to_h.bias"]
            tensors["mlp.attention.bias.sum"] = sum(biases)
        files |= layer_files(layer, shards, qkv, tensors)
    head_dim = config.hidden_size // config.num_attention_heads
    values = {
        "rotary_embedding": int(head_dim * config.rope_parameters["partial_rotary_factor"]),
        "use_gptj_residual": int(config.use_parallel_residual),
    }
    return "gptneox", {**sizes(config, config.intermediate_size), **values}, files


def llama(config: Any, state: State, shards: int) -> tuple[str, dict[str, Any], State]:
    files = {"wte.weight": state["model.embed_tokens.weight"], "lm_head.weight": state["lm_head.weight"]}
    files |= of_layer(state, "model", {"norm": "final_layernorm"})
    names = {norm: norm for norm in (*NORMS, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}
    names["self_attn.o_proj"] = "attention.dense"
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        parts = [state[f"{prefix}.self_attn.{role}_proj.weight"].T.chunk(shards, -1) for role in "qkv"]
        qkv = {"weight": torch.cat([torch.cat(own, -1) for own in zip(*parts, strict=True)], -1)}
        files |= layer_files(layer, shards, qkv, of_layer(state, prefix, names))
    values = {
        "kv_head_num": config.num_key_value_heads,
        "rotary_embedding": config.head_dim,
        "rope_theta": config.rope_parameters["rope_theta"],
        "rope_scaling_factor": config.rope_parameters.get("factor", 1.0),
        "layernorm_eps": config.rms_norm_eps,
    }
    return "llama", {**sizes(config, config.intermediate_size), **values}, files


WRITERS: dict[str, Callable[[Any, State, int], tuple[str, dict[str, Any], State]]] = {
    writer.__name__: writer for writer in (gpt2, opt, bloom, gptj, gpt_neox, llama)
}
