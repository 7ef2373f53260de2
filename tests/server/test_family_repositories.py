# SPDX-License-Identifier: BSD-3-Clause
"""model_repository/decoder copied by hand for each family of the old service, with its kind of tokenizer."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import client_tools as ct
import numpy as np
import pytest
import tiny_checkpoints
import tiny_models
import torch
import tritonclient.grpc as grpcclient
from repositories import SMALL_CACHE, TEMPLATES
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import AutoModelForCausalLM
from triton_process import TritonServer

TEXTS = ["Hello", "The quick brown fox, grüßt 日本", "Water"]
NEW = [6, 3, 8]
MODELS = ("fastertransformer", "preprocessing", "postprocessing", "ensemble")


def byte_level(folder: Path) -> None:
    """As of gpt2, gptj, gpt_neox and bloom."""
    tiny_models.write_tokenizer(folder)


def byte_level_with_start(folder: Path) -> None:
    """As of opt: an end token begins every text."""
    tiny_models.write_tokenizer(folder)
    add_start(folder, "</s>", tiny_models.EOS_ID)


def pieces_with_start(folder: Path) -> None:
    """As of llama: blanks are part of the pieces, unknown characters are bytes, <s> begins every text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<pad>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    special = ["<pad>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special[:3], show_progress=False)
    tokenizer.train_from_iterator(tiny_models.SENTENCES * 4, trainer)
    tokenizer.add_tokens(special[3:])
    tokenizer.save(str(folder / "tokenizer.json"))
    add_start(folder, "<s>", tiny_models.BOS_ID)


def add_start(folder: Path, token: str, token_id: int) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, token_id)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


# Family of tiny_checkpoints, its kind of tokenizer, and whether the old service counted the prompt.
FAMILIES: dict[str, tuple[str, Callable[[Path], None], bool]] = {
    "gpt": ("gpt2", byte_level, True),
    "gptj": ("gptj", byte_level, True),
    "gptneox": ("gpt_neox", byte_level, True),
    "bloom": ("bloom", byte_level, True),
    "opt": ("opt", byte_level_with_start, True),
    "llama": ("llama", pieces_with_start, False),
}


@pytest.fixture(scope="module")
def empty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("families")
    (folder / "models").mkdir()
    running = TritonServer(folder, folder / "models", ["--model-control-mode=explicit"])
    yield running
    running.stop()


def make_checkpoint(folder: Path, family: str, write_tokenizer: Callable[[Path], None]) -> Tokenizer:
    tiny_checkpoints.make(family, folder, vocab_size=620)
    write_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def copy_by_hand(target: Path, checkpoint: Path) -> None:
    """What model_repository/README.md says; the rest is for a small machine."""
    shutil.copytree(TEMPLATES / "decoder", target, dirs_exist_ok=True)
    for config in target.glob("*/config.pbtxt"):
        text = config.read_text().replace("/path/to/checkpoint", str(checkpoint)).replace('"fp16"', '"fp32"')
        if 'backend: "fastertransformer"' in text:
            for key, value in SMALL_CACHE.items():
                text += f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
        config.write_text(text)


def greedy(checkpoint: Path, tokenizer: Tokenizer, text: str, new: int) -> list[int]:
    """Prompt and new tokens, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    ids = torch.tensor([tokenizer.encode(text).ids])
    row = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0
    )
    return row[0].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_family(empty_server: TritonServer, tmp_path: Path, name: str) -> None:
    family, write_tokenizer, counts_prompt = FAMILIES[name]
    tokenizer = make_checkpoint(tmp_path, family, write_tokenizer)
    copy_by_hand(empty_server.folder / "models", tmp_path)
    rows = [greedy(tmp_path, tokenizer, text, new) for text, new in zip(TEXTS, NEW, strict=True)]
    with grpcclient.InferenceServerClient(empty_server.grpc) as client:
        for model in MODELS:
            client.load_model(model)
        outputs = ct.grpc_infer(empty_server.grpc, "ensemble", ensemble_inputs())
        for model in reversed(MODELS):
            client.unload_model(model)
    texts = [text.decode() for text in outputs["OUTPUT_0"][:, 0]]
    assert texts == [tokenizer.decode(row) for row in rows]
    prompt_lens = [len(tokenizer.encode(text).ids) for text in TEXTS]
    before = max(prompt_lens) if counts_prompt else 0
    wanted = [[before + len(row) - prompt] for row, prompt in zip(rows, prompt_lens, strict=True)]
    assert outputs["sequence_length"].tolist() == wanted
    assert outputs["sequence_length"].dtype == np.uint32


def ensemble_inputs() -> ct.Arrays:
    texts: Any = np.array([[text.encode()] for text in TEXTS], dtype=np.object_)
    return {"INPUT_0": texts, "INPUT_1": np.uint32(NEW).reshape(-1, 1)}
