# SPDX-License-Identifier: BSD-3-Clause
"""The peer in plain torch computes the real models: transformers' weights make transformers' tokens."""

import pytest
import torch
import transformers
from torch import Tensor, nn

from fastertransformer.cli.bench.torch_model import Transformer, read_sizes
from fastertransformer.cli.bench.torch_peer import Decoder, torch_generate
from fastertransformer.errors import ModelLoadError

LLAMA = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
GPT = {"vocab_size": 101, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128}
CASES = {
    "llama": ("LlamaConfig", LLAMA),
    "gpt2": ("GPT2Config", GPT),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 8, "tie_word_embeddings": False}),
}
PROMPTS = [[5, 17, 93, 4, 60], [7, 7, 100, 1, 2]]
COUNT = 20


def copy_weights(source: nn.Module, target: Transformer) -> None:
    """From a model of transformers, whatever it calls them."""
    state = source.state_dict()
    transposed = isinstance(source, transformers.GPT2LMHeadModel)
    places = {
        "words": ["model.embed_tokens", "transformer.wte"],
        "learned": ["transformer.wpe"],
        "norm": ["model.norm", "transformer.ln_f"],
        "head": ["lm_head"],
    }
    for i in range(target.sizes.layers):
        ours, llama, gpt = f"blocks.{i}", f"model.layers.{i}", f"transformer.h.{i}"
        names = ("q_proj", "k_proj", "v_proj")
        places |= {
            f"{ours}.norm1": [f"{llama}.input_layernorm", f"{gpt}.ln_1"],
            f"{ours}.norm2": [f"{llama}.post_attention_layernorm", f"{gpt}.ln_2"],
            f"{ours}.attention.qkv": [
                *(f"{llama}.self_attn.{name}" for name in names),
                *(f"{gpt}.attn.{name}" for name in names),
                f"{gpt}.attn.c_attn",
            ],
            f"{ours}.attention.output": [
                f"{llama}.self_attn.o_proj",
                f"{gpt}.attn.out_proj",
                f"{gpt}.attn.c_proj",
            ],
            f"{ours}.up": [
                f"{llama}.mlp.gate_proj",
                f"{llama}.mlp.up_proj",
                f"{gpt}.mlp.fc_in",
                f"{gpt}.mlp.c_fc",
            ],
            f"{ours}.down": [f"{llama}.mlp.down_proj", f"{gpt}.mlp.fc_out", f"{gpt}.mlp.c_proj"],
        }

    def find(name: str) -> Tensor:
        place, _, kind = name.rpartition(".")
        found = [state[f"{other}.{kind}"] for other in places[place] if f"{other}.{kind}" in state]
        is_linear = kind == "weight" and place.startswith("blocks") and "norm" not in place
        return torch.cat([part.T if transposed and is_linear else part for part in found])

    target.load_state_dict({name: find(name) for name in target.state_dict()})


@pytest.mark.parametrize("name", CASES)
def test_tokens_equal_transformers(name, tmp_path):
    config_name, sizes = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**sizes)
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter == 1))
    config.save_pretrained(tmp_path)
    model = Transformer(read_sizes(tmp_path)).eval()
    copy_weights(reference, model)
    ids = torch.tensor(PROMPTS)
    expected = reference.generate(
        ids, max_new_tokens=COUNT, min_new_tokens=COUNT, do_sample=False, eos_token_id=None, pad_token_id=0
    )[:, ids.shape[1] :]
    tokens = []
    with torch.inference_mode():
        decoder = Decoder(model, len(PROMPTS), 64)
        decoder.prefill(ids)
        for _ in range(COUNT):
            tokens.append(decoder.tokens.clone())
            decoder.step()
    assert torch.cat(tokens, 1).tolist() == expected.tolist()
    assert len(set(expected[0].tolist())) > 3


def test_generate_keeps_its_caches_for_shorter_runs_and_grows_them(tmp_path):
    transformers.LlamaConfig(**LLAMA).save_pretrained(tmp_path)
    generate = torch_generate(tmp_path, torch.float32, torch.device("cpu"))
    long = generate(PROMPTS, 70)
    assert [len(made) for made in long] == [70, 70]
    assert generate(PROMPTS, 3) == [made[:3] for made in long]
    assert generate(PROMPTS[:1], 3) == [long[0][:3]]


def test_an_unknown_family_is_refused(tmp_path):
    transformers.BloomConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"--peer torch knows llama, mistral, gpt2, gptj; .* is a bloom"):
        read_sizes(tmp_path)
