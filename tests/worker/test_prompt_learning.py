# SPDX-License-Identifier: BSD-3-Clause
"""Soft, virtual and prefix prompts and sums of hidden states equal those of transformers, on every mesh."""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from decided import decided
from engine_runs import MAX_LEN, VOCAB_SIZE, Answer, ask, running_engine
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fastertransformer.messages import PromptKind, Request, SamplingParams, token_ids

HIDDEN, LAYERS, KV_HEADS, HEAD_DIM = 32, 2, 2, 8
ROWS, LENGTHS, NEW = 11, (5, 19), 12
TIGHT = {"max_num_batched_tokens": 7, "max_num_seqs": 8, "max_tokens": 128, "depth": 1}
CASES = [
    pytest.param("gpt2", {}, id="gpt2"),
    pytest.param("llama", TIGHT, id="llama-chunked-preempted"),
    pytest.param("llama", {"tp": 2, "pp": 2}, id="llama-tp2-pp2"),
    pytest.param("llama", {"tp": 4, "max_num_batched_tokens": 16}, id="llama-tp4"),
    pytest.param("llama", {"device": "cuda"}, id="llama-gpu", marks=pytest.mark.gpu),
]
Next = Callable[[list[int]], torch.Tensor]


def build(family: str) -> torch.nn.Module:
    torch.manual_seed(8)
    if family == "gpt2":
        sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": MAX_LEN}
        model: torch.nn.Module = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB_SIZE, eos_token_id=0, **sizes))
    else:
        config = LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=HIDDEN,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=KV_HEADS,
            max_position_embeddings=MAX_LEN,
            eos_token_id=0,
        )
        model = LlamaForCausalLM(config)
    return decided(model, std=0.3)


def write_tasks(folder: Path, kind: PromptKind, tables: list[np.ndarray]) -> None:
    """FasterTransformer's config.ini and the files of its tasks; prefixes for two ranks."""
    tasks = "".join(f"[task_{i}]\ntask_name=t{i}\nprompt_length={LENGTHS[i]}\n" for i in range(len(tables)))
    head = f"[gpt]\nnum_tasks={len(tables)}\nprompt_learning_type={kind.value}\nnum_layer={LAYERS}\n"
    heads = tables[0].shape[2] if kind is PromptKind.PREFIX else 4
    head += f"head_num=4\nkv_head_num={heads}\nsize_per_head={HEAD_DIM}\n"
    (folder / "config.ini").write_text(head + f"prompt_learning_start_id={VOCAB_SIZE - 30}\n" + tasks)
    for i, table in enumerate(tables):
        if kind is PromptKind.VIRTUAL:
            table.tofile(folder / f"model.prompt_table.t{i}.weight.bin")
        else:
            for rank, part in enumerate(np.split(table, 2, axis=2)):
                part.tofile(folder / f"model.prefix_prompt.t{i}.weight.{rank}.bin")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def greedy(forward: Next, prompt: list[int]) -> list[int]:
    """Tokens, where `forward` gives the last logits for all tokens so far."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(NEW):
            tokens.append(int(forward(tokens).argmax()))
    return tokens[len(prompt) :]


def embedding_of(model: torch.nn.Module, tokens: list[int], rows: np.ndarray) -> torch.Tensor:
    """[1, T, H]: rows for negative tokens, words for the others."""
    ids = torch.tensor(tokens)
    words = model.get_input_embeddings()(ids.clamp(min=0))
    return torch.where(ids[:, None] < 0, torch.from_numpy(rows)[(-1 - ids).clamp(min=0)], words)[None]


def replaced(model: torch.nn.Module, rows: np.ndarray) -> Next:
    return lambda tokens: model(inputs_embeds=embedding_of(model, tokens, rows)).logits[0, -1]


def behind(model: torch.nn.Module, table: np.ndarray) -> Next:
    """Logits behind keys and values [layers, 2, heads, length, D]."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    def forward(tokens: list[int]) -> torch.Tensor:
        cache = DynamicCache()
        for layer, (k, v) in enumerate(torch.from_numpy(table)):
            cache.update(k[None].clone(), v[None].clone(), layer)
        return model(input_ids=torch.tensor([tokens]), **{name: cache}).logits[0, -1]

    return forward


def context_of(model: torch.nn.Module, tokens: list[int], rows: np.ndarray) -> torch.Tensor:
    """The sum of what the final norm gets."""
    seen: list[torch.Tensor] = []
    norm = model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(inputs_embeds=embedding_of(model, tokens, rows))
    hook.remove()
    return seen[0][0].sum(0)


def request(number: int, prompt: list[int], **more: object) -> Request:
    return Request(number, token_ids(prompt), SamplingParams(max_tokens=NEW, end_ids=()), **more)


def answers_of(folder: Path, requests: list[Request], engine: dict[str, object]) -> dict[int, Answer]:
    """Asked twice, so that the second time finds blocks in the cache; both times the same."""
    with running_engine(folder, **{"max_tokens": 2048, **engine}) as client:
        first, stats = ask(client, requests)
        again, _ = ask(client, requests)
    assert [answer.tokens for answer in again.values()] == [answer.tokens for answer in first.values()]
    assert stats.num_free_blocks == stats.num_total_blocks
    if engine.get("max_tokens") == 128:
        assert stats.num_preemptions > 0
    return first


SOFT = list(range(-1, -1 - ROWS, -1))
PROMPTS = [[*SOFT, 5, 17, 93, 4], [7] * 8 + SOFT + SOFT[3:6], SOFT[:1], [9, *SOFT[::-1], 40, 41]]


def task_prompts(length: int) -> list[list[int]]:
    return [[-1 - row for row in range(length)] + [number, 7] for number in (4, 5)]


@pytest.mark.parametrize(("family", "engine"), CASES)
def test_embeddings_of_requests_and_of_tasks(family, engine, tmp_path):
    """Equal ids with other embeddings are other prompts, also for the prefix cache."""
    model = build(family)
    model.save_pretrained(tmp_path)
    tables = [random(length, HIDDEN, seed=length) for length in LENGTHS]
    write_tasks(tmp_path, PromptKind.VIRTUAL, tables)
    cases = [
        (prompt, rows, {"embeddings": rows.tobytes()})
        for prompt in PROMPTS
        for rows in (random(ROWS, HIDDEN, seed=seed) for seed in range(3))
    ]
    cases += [
        (prompt, table, {"prompt_task": task})
        for task, table in enumerate(tables)
        for prompt in task_prompts(len(table))
    ]
    requests = [
        request(number, prompt, wants_context=number % 2 == 0, **more)
        for number, (prompt, _, more) in enumerate(cases)
    ]
    answers = answers_of(tmp_path, requests, engine)
    for number, (prompt, rows, _) in enumerate(cases):
        assert answers[number].tokens == greedy(replaced(model, rows), prompt)
        if number % 2 == 0:
            assert_context(answers[number], model, prompt, rows)
        else:
            assert answers[number].context == b""
    assert len({tuple(answer.tokens) for answer in answers.values()}) > 8


def assert_context(answer: Answer, model: torch.nn.Module, prompt: list[int], rows: np.ndarray) -> None:
    got = np.frombuffer(answer.context, np.float32)
    np.testing.assert_allclose(got, context_of(model, prompt, rows).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "engine"), CASES)
def test_prefixes_of_tasks(family, engine, tmp_path):
    model = build(family)
    model.save_pretrained(tmp_path)
    heads = 4 if family == "gpt2" else KV_HEADS
    tables = [random(LAYERS, 2, heads, length, HEAD_DIM, seed=length) for length in LENGTHS]
    write_tasks(tmp_path, PromptKind.PREFIX, tables)
    cases = [(task, [number, 8, 9, 10][:size]) for task in (0, 1) for number in (4, 5) for size in (1, 4)]
    requests = [
        request(n, [-1 - row for row in range(LENGTHS[task])] + prompt, prompt_task=task)
        for n, (task, prompt) in enumerate(cases)
    ]
    plain = request(len(cases), [4, 8, 9, 10])
    answers = answers_of(tmp_path, [*requests, plain], engine)
    for number, (task, prompt) in enumerate(cases):
        assert answers[number].tokens == greedy(behind(model, tables[task]), prompt)
    assert answers[len(cases)].tokens == greedy(replaced(model, random(1, HIDDEN)), [4, 8, 9, 10])


def test_context_beside_a_filled_cache_and_what_is_refused(tmp_path):
    model = build("llama")
    model.save_pretrained(tmp_path)
    good = [request(0, [5]), request(1, [5], wants_context=True), request(2, [6] * 20)]
    good.append(request(3, [6] * 20, wants_context=True))
    rows = random(2, HIDDEN).tobytes()
    bad = {
        "prompt: token id -3 at position 1": request(4, [1, -3], embeddings=rows),
        "prompt: token id -1 at position 0": request(5, [-1, 1]),
        "embeddings has 5 bytes; rows have 32 values": request(6, [1], embeddings=b"12345"),
        "prompt_task is 0; the checkpoint has 0 tasks": request(7, [1], prompt_task=0),
    }
    with running_engine(tmp_path) as client:
        answers = {number: ask(client, [good[number]])[0][number] for number in range(4)}
        refused, _ = ask(client, list(bad.values()))
    for number, answer in answers.items():
        assert bool(answer.context) is good[number].wants_context
        if answer.context:
            assert_context(answer, model, list(good[number].prompt), random(1, HIDDEN))
    for text, wrong in bad.items():
        assert text in refused[wrong.id].last.error
