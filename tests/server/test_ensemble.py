# SPDX-License-Identifier: BSD-3-Clause
"""Preprocessing, model and postprocessing as an ensemble with FasterTransformer's names."""

from typing import Any

import client_tools as ct
import numpy as np
import pytest
from tokenizers import Tokenizer
from triton_process import TritonServer
from tritonclient.utils import InferenceServerException

TEXTS = ["Hello", "The quick brown fox jumps", "日本語🙂"]
NEW = [5, 9, 7]


def strings(*rows: str | bytes) -> Any:
    return np.array([[row.encode() if isinstance(row, str) else row] for row in rows], dtype=np.object_)


def ask(server: TritonServer, **more: Any) -> ct.Arrays:
    arrays = {"INPUT_0": strings(*TEXTS), "INPUT_1": np.uint32(NEW).reshape(-1, 1)}
    return ct.grpc_infer(server.grpc, "ensemble", arrays | more)


def rows(server: TritonServer, tokenizer: Tokenizer, **more: Any) -> list[list[int]]:
    """Prompt and new tokens of every row, by the token contract."""
    prompts = [tokenizer.encode(text).ids for text in TEXTS]
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs(prompts, NEW, **more))
    ends = (outputs["sequence_length"] + outputs["input_sequence_lengths"])[:, 0]
    return [row[:end].tolist() for row, end in zip(outputs["output_ids"][:, 0], ends, strict=True)]


def test_text_of_prompt_and_answer_without_padding(server: TritonServer, tokenizer: Tokenizer) -> None:
    outputs = ask(server)
    wanted = [tokenizer.decode(row) for row in rows(server, tokenizer)]
    assert [row[0].decode() for row in outputs["OUTPUT_0"]] == wanted
    assert outputs["OUTPUT_0"].shape == (3, 1)


def test_sampling_inputs_and_log_probs_pass_through(server: TritonServer, tokenizer: Tokenizer) -> None:
    seeds, ks = np.uint64([[1], [2], [3]]), np.uint32([[9], [0], [3]])
    outputs = ask(server, random_seed=seeds, runtime_top_k=ks, is_return_log_probs=np.array([[True]] * 3))
    wanted = [tokenizer.decode(row) for row in rows(server, tokenizer, random_seed=seeds, runtime_top_k=ks)]
    assert [row[0].decode() for row in outputs["OUTPUT_0"]] == wanted
    assert outputs["output_log_probs"].shape == (3, 1, max(NEW))
    assert (outputs["cum_log_probs"] < 0).all()


def test_words_are_lines_of_comma_separated_values(server: TritonServer, tokenizer: Tokenizer) -> None:
    """Of a letter that every row would consist of."""
    token = tokenizer.token_to_id("x")
    likely: dict[str, Any] = {"logit_bias": np.float32([[[token, 100.0]]] * len(TEXTS))}
    prompts = [tokenizer.encode(text).ids for text in TEXTS]
    free = rows(server, tokenizer, **likely)
    assert free == [prompt + [token] * new for prompt, new in zip(prompts, NEW, strict=True)]
    banned = ct.grpc_infer(
        server.grpc,
        "fastertransformer",
        ct.core_inputs(prompts, NEW, **likely, bad_words_list=np.int32([[[token], [1]]] * len(TEXTS))),
    )
    wanted = [
        tokenizer.decode(ids[: len(prompt) + new].tolist())
        for ids, prompt, new in zip(banned["output_ids"][:, 0], prompts, NEW, strict=True)
    ]
    outputs = ask(server, INPUT_2=strings('"x",zzz', "x", "x"), **likely)
    assert [row[0].decode() for row in outputs["OUTPUT_0"]] == wanted
    stopped = ask(server, INPUT_3=strings("x", "x", "x"), **likely)
    assert stopped["sequence_length"][:, 0].tolist() == [1, 1, 1]


def test_errors_come_through(server: TritonServer) -> None:
    with pytest.raises(InferenceServerException, match="temperature is nan"):
        ask(server, temperature=np.float32([[1], [np.nan], [1]]))
    with pytest.raises(InferenceServerException, match=r"ensemble.*QUERY is .*not UTF-8"):
        ask(server, INPUT_0=strings(b"\xff", "a", "b"))
