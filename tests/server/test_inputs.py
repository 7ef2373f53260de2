# SPDX-License-Identifier: BSD-3-Clause
"""Every input of the token contract through a real server, each way to ask, and what it changes.

Over 300 lines because the checks of all inputs stand in one table.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import client_tools as ct
import numpy as np
import pytest
import torch
from tiny_models import BOS_ID, EOS_ID, PROMPT_LENGTHS, VOCAB_SIZE, prompt_table
from transformers import AutoModelForCausalLM
from triton_process import TritonServer

from fastertransformer.server.contracts import core

PROMPT = [11, 12, 13]
Tokens = list[int]


class Asker:
    """One way to ask the server, and what transformers has to say."""

    def __init__(self, infer: Callable[[ct.Arrays], ct.Arrays], reference: Any) -> None:
        self.infer = infer
        self.reference = reference

    def outputs(self, new: int = 24, prompt: Tokens = PROMPT, **more: Any) -> ct.Arrays:
        return self.infer(ct.core_inputs([prompt], new, **more))

    def __call__(
        self, new: int = 24, prompt: Tokens = PROMPT, visible: Tokens | None = None, **more: Any
    ) -> Tokens:
        """New tokens; `visible` is what `output_ids` shows of the prompt."""
        outputs = self.outputs(new, prompt, **more)
        begin = len(prompt if visible is None else visible)
        row = outputs["output_ids"][0, 0].tolist()
        assert row[:begin] == (prompt if visible is None else visible)
        return row[begin : begin + int(outputs["sequence_length"][0, 0])]

    def greedy(self, prompt: Tokens, rows: np.ndarray, new: int = 8) -> Tokens:
        """Of transformers; negative tokens stand for rows."""
        tokens = list(prompt)
        words = self.reference.get_input_embeddings().weight
        with torch.no_grad():
            while len(tokens) < len(prompt) + new and EOS_ID not in tokens[len(prompt) :]:
                found = [words[t] if t >= 0 else torch.from_numpy(rows[-1 - t]) for t in tokens]
                logits = self.reference(inputs_embeds=torch.stack(found)[None]).logits
                tokens.append(int(logits[0, -1].argmax()))
        return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def reference(llama: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(llama).eval()


@pytest.fixture(scope="module", params=["grpc", "http", "stream"])
def ask(request: pytest.FixtureRequest, server: TritonServer, reference: Any) -> Asker:
    ways = {
        "grpc": lambda arrays: ct.grpc_infer(server.grpc, "fastertransformer", arrays),
        "http": lambda arrays: ct.http_infer(server.http, "fastertransformer", arrays),
        "stream": lambda arrays: ct.stream_infer(server.grpc, "streaming", arrays)[-1],
    }
    return Asker(ways[request.param], reference)


def soft_rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 64)).astype(np.float16)


def request_prompt(rows: np.ndarray, kind: int, length: int | None = None) -> ct.Arrays:
    return {
        "request_prompt_embedding": rows[None],
        "request_prompt_lengths": len(rows) if length is None else length,
        "request_prompt_type": kind,
    }


# What every tensor does


def padding_is_no_prompt(ask: Asker) -> None:
    arrays = ct.core_inputs([PROMPT], 8) | {"input_ids": np.array([[*PROMPT, 77, 78]], np.uint32)}
    outputs = ask.infer(arrays)
    assert outputs["output_ids"].shape == (1, 1, 5 + 8)
    assert outputs["output_ids"][0, 0, 3:11].tolist() == ask(8)
    assert outputs["input_sequence_lengths"].tolist() == [[3]]


def length_of_the_output(ask: Asker) -> None:
    assert ask(3, min_length=3) == ask(9, min_length=9)[:3]


def one_candidate_is_greedy(ask: Asker) -> None:
    assert ask(runtime_top_k=1, temperature=2.0, random_seed=5) == ask()
    assert ask(runtime_top_k=30, temperature=2.0, random_seed=5) != ask()


def a_small_nucleus_is_greedy(ask: Asker) -> None:
    assert ask(runtime_top_p=1e-6, random_seed=5) == ask()
    assert ask(runtime_top_p=1.0, temperature=2.0, random_seed=5) != ask()


def only_the_best_has_its_own_probability(ask: Asker) -> None:
    assert ask(min_p=1.0, random_seed=5) == ask() != ask(min_p=1e-9, temperature=3.0, random_seed=5)


def top_p_falls_and_starts_anew(ask: Asker) -> None:
    draw = {"runtime_top_p": 1.0, "temperature": 2.0, "random_seed": 9, "min_length": 9}
    first, second, third = ask(3, **draw, top_p_decay=1e-9, top_p_min=1e-6)
    greedy = {"runtime_top_k": 1, "min_length": 9}
    assert [first] == ask(1, **draw)
    assert [second] == ask(1, [*PROMPT, first], **greedy)
    assert [third] == ask(1, [*PROMPT, first, second], **greedy)
    again = ask(3, **draw, top_p_decay=1e-9, top_p_reset_ids=second)
    assert again == [first, second, *ask(1, [*PROMPT, first, second], **draw)]
    assert ask(3, **draw, top_p_decay=1e-9, top_p_min=1.0) == ask(3, **draw), (
        "a minimum of 1 lets nothing fall"
    )


def temperature_zero_is_greedy(ask: Asker) -> None:
    assert ask(temperature=0.0, runtime_top_p=0.9) == ask()


def nothing_comes_twice(name: str, value: float, prompt_counts: bool) -> Callable[[Asker], None]:
    def check(ask: Asker) -> None:
        free, tokens = ask(60, min_length=60), ask(60, min_length=60, **{name: value})
        assert len(set(free)) < 60, "nothing to penalise"
        assert len(set(tokens)) == 60
        assert set(tokens).isdisjoint(PROMPT) or not prompt_counts

    return check


def end_ids_wait(ask: Asker) -> None:
    end = ask(min_length=24)[2]
    assert len(ask(end_id=end)) <= 3
    assert end not in ask(end_id=end, min_length=10)[:9]


def no_ngram_comes_twice(ask: Asker) -> None:
    often = {"min_length": 60, "logit_bias": np.array([[[20, 50.0]]], np.float32)}
    free, tokens = (PROMPT + ask(60, **often, no_repeat_ngram_size=size) for size in (0, 2))
    assert len(set(itertools.pairwise(free))) < len(free) - 1
    assert len(set(itertools.pairwise(tokens))) == len(tokens) - 1


def biases_decide(ask: Asker) -> None:
    assert ask(4, logit_bias=np.array([[[299, 1e4], [-1, 0]]], np.float32)) == [299] * 4


def samples_have_the_place_of_beams(ask: Asker) -> None:
    draw = {"runtime_top_k": 40, "temperature": 2.0, "min_length": 8}
    options = {**draw, "random_seed": 70, "num_return_sequences": 3, "is_return_log_probs": True}
    outputs = ask.outputs(8, is_return_context_embeddings=True, **options)
    assert outputs["output_ids"].shape == (1, 3, 11)
    assert outputs["output_log_probs"].shape == (1, 3, 8)
    assert outputs["cum_log_probs"].shape == outputs["sequence_length"].shape == (1, 3)
    assert outputs["context_embeddings"].shape == (1, 3, 64)
    rows = [row[3:] for row in outputs["output_ids"][0].tolist()]
    assert rows == [ask(8, random_seed=70 + sample, **draw) for sample in range(3)]
    assert rows[0] != rows[1]


def seeds_decide(ask: Asker) -> None:
    draw = {"runtime_top_k": 40, "temperature": 2.0}
    assert ask(random_seed=1, **draw) == ask(random_seed=1, **draw) != ask(random_seed=2, **draw)


def log_probabilities_come_if_asked(ask: Asker) -> None:
    outputs = ask.outputs(8, is_return_log_probs=True, min_length=8)
    logprobs = outputs["output_log_probs"]
    tokens = torch.tensor([[*PROMPT, *outputs["output_ids"][0, 0, 3:].tolist()]])
    with torch.no_grad():
        logits = ask.reference(tokens).logits[0]
    logits[:, EOS_ID] = -torch.inf  # of tokens 0 to 6 by min_length
    expected = logits.log_softmax(-1)[2:-1].gather(1, tokens[0, 3:, None])[:, 0]
    np.testing.assert_allclose(logprobs[0, 0, :7], expected[:7], atol=1e-4)
    np.testing.assert_allclose(outputs["cum_log_probs"], logprobs.sum(-1), rtol=1e-5)
    assert "output_log_probs" not in ask.outputs(8)


def contexts_are_summed_up(ask: Asker) -> None:
    seen: list[torch.Tensor] = []
    hook = ask.reference.model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        ask.reference(torch.tensor([PROMPT]))
    hook.remove()
    outputs = ask.outputs(4, is_return_context_embeddings=True)
    assert outputs["context_embeddings"].shape == (1, 1, 64)
    np.testing.assert_allclose(outputs["context_embeddings"][0, 0], seen[0][0].sum(0), rtol=1e-3, atol=1e-3)
    assert "context_embeddings" not in ask.outputs(4)


def empty_prompts_begin_with_it(ask: Asker) -> None:
    assert ask(8, [], start_id=77, min_length=8) == ask(8, [77], min_length=8)
    assert ask(8, [], min_length=8) == ask(8, [BOS_ID], min_length=8)


def end_ids_end(ask: Asker) -> None:
    free = ask(min_length=24)
    assert ask(min_length=1, end_id=free[5]) == free[: free.index(free[5]) + 1]


def stop_words_end(ask: Asker) -> None:
    free = ask(min_length=24)
    assert ask(min_length=24, stop_words_list=ct.word_list([[298, 299], free[3:5]])) == free[:5]


def bad_words_never_come(ask: Asker) -> None:
    free = ask()
    assert free[0] not in ask(bad_words_list=ct.word_list([free[:1]]))


def searched(ask: Asker, width: int = 4, **more: Any) -> list[Tokens]:
    """The beams of the server, each up to its end."""
    outputs = ask.outputs(9, beam_width=width, **{"len_penalty": 1.0, **more})
    lines = outputs["output_ids"][0, :, len(PROMPT) :].tolist()
    return [line[:count] for line, count in zip(lines, outputs["sequence_length"][0], strict=True)]


def search_equals_transformers(ask: Asker) -> None:
    for penalty, early in itertools.product((-2.0, 1.0, 3.0), (False, True)):
        rows = ask.reference.generate(
            torch.tensor([PROMPT]),
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=9,
            length_penalty=penalty,
            early_stopping=early,
            do_sample=False,
            pad_token_id=EOS_ID,
        )
        found = searched(ask, len_penalty=penalty, early_stopping=early)
        for beam, row in zip(found, rows[:, len(PROMPT) :].tolist(), strict=True):
            assert beam == row[: len(beam)]
            assert not set(row[len(beam) :]) - {EOS_ID}


def beams_part(ask: Asker) -> None:
    assert searched(ask, beam_search_diversity_rate=5.0) != searched(ask)


def old_tokens_are_forgotten(ask: Asker) -> None:
    long = list(range(20, 70))
    assert ask(24, long, memory_len=16) != ask(24, long) == ask(24, long, memory_len=512)


def tasks_of_the_checkpoint(ask: Asker) -> None:
    """Virtual ids are rows of the task's table, and not part of the output."""
    for task, length in enumerate(PROMPT_LENGTHS):
        prompt = [11, *range(VOCAB_SIZE, VOCAB_SIZE + length), 12]
        expected = ask.greedy([11, *range(-1, -1 - length, -1), 12], prompt_table(task))
        tokens = ask(8, prompt, visible=[11, 12], prompt_learning_task_name_ids=task)
        assert tokens == expected


def soft_prompts(ask: Asker) -> None:
    rows = soft_rows(5)
    expected = ask.greedy([-1, -2, -3, *PROMPT], rows.astype(np.float32))
    assert ask(8, **request_prompt(rows, 1, 3)) == expected
    assert ask(8, **request_prompt(rows, 1, 0)) == ask(8)


def virtual_tokens(ask: Asker) -> None:
    """Beside a task, which is left out of account."""
    rows = soft_rows(4)
    expected = ask.greedy([-4, 11, -1, 12], rows.astype(np.float32))
    prompt = [VOCAB_SIZE + 3, 11, VOCAB_SIZE, 12]
    more = request_prompt(rows, 3) | {"prompt_learning_task_name_ids": 0}
    assert ask(8, prompt, visible=[11, 12], **more) == expected


CHECKS: dict[str, Callable[[Asker], None]] = {
    "input_ids": padding_is_no_prompt,
    "input_lengths": padding_is_no_prompt,
    "request_output_len": length_of_the_output,
    "runtime_top_k": one_candidate_is_greedy,
    "runtime_top_p": a_small_nucleus_is_greedy,
    "top_p_decay": top_p_falls_and_starts_anew,
    "top_p_min": top_p_falls_and_starts_anew,
    "top_p_reset_ids": top_p_falls_and_starts_anew,
    "min_p": only_the_best_has_its_own_probability,
    "temperature": temperature_zero_is_greedy,
    "repetition_penalty": nothing_comes_twice("repetition_penalty", 1e9, True),
    "presence_penalty": nothing_comes_twice("presence_penalty", 1e5, True),
    "frequency_penalty": nothing_comes_twice("frequency_penalty", 1e5, False),
    "min_length": end_ids_wait,
    "no_repeat_ngram_size": no_ngram_comes_twice,
    "logit_bias": biases_decide,
    "num_return_sequences": samples_have_the_place_of_beams,
    "random_seed": seeds_decide,
    "is_return_log_probs": log_probabilities_come_if_asked,
    "is_return_context_embeddings": contexts_are_summed_up,
    "start_id": empty_prompts_begin_with_it,
    "end_id": end_ids_end,
    "stop_words_list": stop_words_end,
    "bad_words_list": bad_words_never_come,
    "beam_width": search_equals_transformers,
    "len_penalty": search_equals_transformers,
    "early_stopping": search_equals_transformers,
    "beam_search_diversity_rate": beams_part,
    "memory_len": old_tokens_are_forgotten,
    "prompt_learning_task_name_ids": tasks_of_the_checkpoint,
    "request_prompt_embedding": soft_prompts,
    "request_prompt_lengths": soft_prompts,
    "request_prompt_type": virtual_tokens,
}


def test_every_input_has_a_check() -> None:
    assert {tensor.name for tensor in core.INPUTS} == CHECKS.keys()


@pytest.mark.parametrize("check", list(dict.fromkeys(CHECKS.values())), ids=lambda check: check.__qualname__)
def test_effect(ask: Asker, check: Callable[[Asker], None]) -> None:
    check(ask)


def test_prefix_of_a_task(server: TritonServer) -> None:
    """Its keys and values lie in front of the prompt, and nothing of them is part of the output."""

    def ask(**more: Any) -> ct.Arrays:
        return ct.grpc_infer(server.grpc, "gpt", ct.core_inputs([PROMPT], 8, min_length=8, **more))

    rows = [ask(prompt_learning_task_name_ids=task)["output_ids"][0, 0].tolist() for task in (0, 1, 0)]
    assert rows[0] == rows[2] != rows[1]
    assert ask()["output_ids"][0, 0].tolist() not in rows
    assert all(row[:3] == PROMPT and len(row) == 11 for row in rows)
