# SPDX-License-Identifier: BSD-3-Clause
"""Tiny seeded random checkpoints with a tokenizer that knows every byte."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

VOCAB_SIZE = 300
MAX_POSITIONS = 16384
LONG = 16000
"""New tokens of a request that does not end while a test does something else, and is cancelled then."""
NUM_HEADS = 4
PROMPT_LENGTHS = (3, 9)
"""Of the prompt-learning tasks `squad` and `boolq`: virtual tokens of llama, prefixes of gpt2."""
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Water is denoted by the symbol H2O.",
    "Hello world!",
]


def write_tokenizer(folder: Path) -> None:
    """Byte-level BPE: any text survives a round trip, most characters beyond ASCII take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_llama(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        initializer_range=0.5,
    )
    _write(LlamaForCausalLM(config), folder)
    for task, name in _write_tasks(folder, 3):
        prompt_table(task).tofile(folder / f"model.prompt_table.{name}.weight.bin")
    return folder


def write_gpt2(folder: Path) -> Path:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=MAX_POSITIONS,
        n_embd=64,
        n_layer=2,
        n_head=NUM_HEADS,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        initializer_range=0.5,
    )
    _write(GPT2LMHeadModel(config), folder)
    for task, name in _write_tasks(folder, 2):
        shape = (config.n_layer, 2, config.n_head, PROMPT_LENGTHS[task], 16)
        _random(task, *shape).tofile(folder / f"model.prefix_prompt.{name}.weight.0.bin")
    return folder


def prompt_table(task: int) -> np.ndarray:
    """[length, hidden] of a task of llama."""
    return _random(task, PROMPT_LENGTHS[task], 64)


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _write_tasks(folder: Path, kind: int) -> list[tuple[int, str]]:
    """FasterTransformer's config.ini; (number, name) of the tasks."""
    tasks = list(enumerate(("squad", "boolq")))
    sections = [f"[task_{i}]\ntask_name={name}\nprompt_length={PROMPT_LENGTHS[i]}\n" for i, name in tasks]
    head = (
        f"[gpt]\nnum_tasks={len(tasks)}\nprompt_learning_type={kind}\nprompt_learning_start_id={VOCAB_SIZE}\n"
    )
    head += "head_num=4\nsize_per_head=16\nnum_layer=2\n"
    (folder / "config.ini").write_text(head + "".join(sections))
    return tasks


def _write(model: PreTrainedModel, folder: Path) -> None:
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    write_tokenizer(folder)
