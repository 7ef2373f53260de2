# SPDX-License-Identifier: BSD-3-Clause
"""The text contract on a real server, over HTTP generate, generate_stream and gRPC."""

import json
from pathlib import Path
from typing import Any

import client_tools as ct
import numpy as np
import pytest
from tokenizers import Tokenizer
from triton_process import TritonServer
from tritonclient.utils import InferenceServerException

PROMPTS = ["The quick brown fox", "Grüße, 世界! 🙂👩‍🚀", "a", ""]


def generate(server: TritonServer, model: str = "text", **body: Any) -> dict[str, Any]:
    status, text = ct.post(f"{server.http}/v2/models/{model}/generate", body)
    assert status == 200, text
    return json.loads(text)


def generate_stream(server: TritonServer, **body: Any) -> list[dict[str, Any]]:
    status, text = ct.post(f"{server.http}/v2/models/text/generate_stream", {"stream": True, **body})
    assert status == 200, text
    return ct.events(text)


def strings(*rows: str) -> Any:
    return np.array([[row.encode()] for row in rows], dtype=np.object_)


def expected_text(server: TritonServer, tokenizer: Tokenizer, prompt: str, new: int) -> str:
    """By the token contract and the whole row decoded at once."""
    ids = tokenizer.encode(prompt).ids
    outputs = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs([ids], new))
    count = int(outputs["sequence_length"][0, 0])
    return str(tokenizer.decode(outputs["output_ids"][0, 0, len(ids) : len(ids) + count].tolist()))


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("model", ["text", "text_once"])
def test_generate(server: TritonServer, tokenizer: Tokenizer, model: str, prompt: str) -> None:
    answer = generate(server, model, text_input=prompt, max_tokens=20)
    assert answer["text_output"] == expected_text(server, tokenizer, prompt, 20)
    assert answer["finish_reason"] in {"length", "stop"}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_pieces_join_to_the_whole(server: TritonServer, prompt: str) -> None:
    counts = {"max_tokens": 400, "min_tokens": 300}
    options = {"text_input": prompt, **counts, "temperature": 1.5, "top_p": 1.0, "seed": 5}
    counted = {"return_num_output_tokens": True, "return_num_input_tokens": True}
    pieces = generate_stream(server, **options, **counted)
    whole = generate(server, **options, **counted)
    assert "".join(piece["text_output"] for piece in pieces) == whole["text_output"]
    assert sum(piece["num_output_tokens"] for piece in pieces) == whole["num_output_tokens"]
    assert len(pieces) > 10
    assert {piece["finish_reason"] for piece in pieces[:-1]} == {""}
    assert pieces[-1]["finish_reason"] == whole["finish_reason"]
    assert pieces[0]["num_input_tokens"] == whole["num_input_tokens"]


def test_defaults_for_everything_but_the_text(server: TritonServer) -> None:
    answer = generate(server, text_input="Hello", return_num_output_tokens=True, min_tokens=16)
    assert answer["num_output_tokens"] == 16
    assert not answer["text_output"].startswith("Hello")


def test_prompt_in_the_output(server: TritonServer) -> None:
    options = {"text_input": "Hello", "max_tokens": 5}
    without = generate(server, **options)["text_output"]
    assert generate(server, **options, exclude_input_in_output=False)["text_output"] == "Hello" + without
    pieces = generate_stream(server, **options, exclude_input_in_output=False)
    assert "".join(piece["text_output"] for piece in pieces) == "Hello" + without


def test_stop_words_cut_the_text_wherever_tokens_end(server: TritonServer) -> None:
    options = {"text_input": "Hello world", "max_tokens": 60, "min_tokens": 60}
    text = generate(server, **options)["text_output"]
    word = text[7:10]
    cut = text[: text.index(word)]
    answer = generate(
        server, **options, stop_words=["never to be found", word], return_num_output_tokens=True
    )
    assert answer["text_output"] == cut
    assert answer["finish_reason"] == "stop"
    assert answer["num_output_tokens"] < 60
    pieces = generate_stream(server, **options, stop_words=word)
    assert "".join(piece["text_output"] for piece in pieces) == cut


def test_bad_words_do_not_come(server: TritonServer, tokenizer: Tokenizer) -> None:
    options = {"text_input": "Hello", "max_tokens": 30}
    ids = tokenizer.encode("Hello").ids
    row = ct.grpc_infer(server.grpc, "fastertransformer", ct.core_inputs([ids], 30))["output_ids"][0, 0]
    word = next(
        text
        for token in row[len(ids) :]
        if (text := tokenizer.decode([int(token)])).isascii() and text.strip()
    )
    assert word in generate(server, **options)["text_output"]
    banned = generate(server, **options, bad_words=[word])["text_output"]
    assert tokenizer.encode(word).ids[0] not in tokenizer.encode(banned).ids


def test_empty_word_lists_mean_none(server: TritonServer) -> None:
    options = {"text_input": "Hello", "max_tokens": 5}
    assert generate(server, **options, stop_words="", bad_words="") == generate(server, **options)


def test_log_probs(server: TritonServer) -> None:
    options = {"text_input": "Hello", "max_tokens": 12, "min_tokens": 12, "return_log_probs": True}
    whole = generate(server, **options)
    assert len(whole["output_log_probs"]) == 12
    assert whole["cum_log_probs"] == pytest.approx(sum(whole["output_log_probs"]), rel=1e-4)
    pieces = generate_stream(server, **options)
    joined = [value for piece in pieces for value in np.atleast_1d(piece["output_log_probs"])]
    assert joined == pytest.approx(whole["output_log_probs"], rel=1e-4)
    assert pieces[-1]["cum_log_probs"] == pytest.approx(whole["cum_log_probs"], rel=1e-4)


def test_samples_of_every_row(server: TritonServer) -> None:
    """Sample i draws with the seed + i; each has its stop words, its stream and its end."""
    draw = {"top_k": 40, "temperature": 2.0, "max_tokens": 12, "min_tokens": 12, "return_log_probs": True}
    alone = [generate(server, text_input="Hello", seed=70 + i, **draw) for i in range(3)]
    texts = [answer["text_output"] for answer in alone]
    assert len(set(texts)) == 3
    whole = generate(
        server, text_input="Hello", seed=70, num_return_sequences=3, return_num_output_tokens=True, **draw
    )
    assert whole["text_output"] == texts
    assert whole["cum_log_probs"] == pytest.approx([answer["cum_log_probs"] for answer in alone], rel=1e-4)
    assert whole["num_output_tokens"] == 36
    pieces = generate_stream(server, text_input="Hello", seed=70, num_return_sequences=3, **draw)
    assert joined(pieces) == texts
    stop = texts[1][4:6]
    cut = generate(server, text_input="Hello", seed=70, num_return_sequences=3, stop_words=[stop], **draw)
    assert cut["text_output"] == [text.split(stop)[0] for text in texts]


def test_samples_are_streamed(server: TritonServer) -> None:
    draw = {"top_k": 40, "seed": 70, "num_return_sequences": 3, "max_tokens": 400, "min_tokens": 400}
    pieces = generate_stream(server, text_input="Hello", **draw)
    assert len(pieces) > 3
    assert joined(pieces) == generate(server, text_input="Hello", **draw)["text_output"]


def joined(pieces: list[dict[str, Any]]) -> list[str]:
    """The text of each of three samples."""
    return ["".join(piece["text_output"][i] for piece in pieces) for i in range(3)]


def test_samples_of_beams(server: TritonServer) -> None:
    """A search draws nothing, so that its samples are equal; rows keep theirs apart."""
    arrays = {"text_input": strings("Hello", "a"), "max_tokens": np.int32([[6], [4]])}
    arrays |= {"beam_width": np.int32([[2]] * 2)}
    beams = ct.grpc_infer(server.grpc, "text_once", arrays)["text_output"]
    twice = ct.grpc_infer(server.grpc, "text_once", arrays | {"num_return_sequences": np.int32([[2]] * 2)})[
        "text_output"
    ]
    assert beams.shape == (2, 2)
    assert twice.tolist() == np.hstack([beams, beams]).tolist()


def test_biases_of_words(server: TritonServer, tokenizer: Tokenizer) -> None:
    """Every token of a word has its weight, beside the biases of tokens."""
    word, token = "the", tokenizer.encode("q").ids[0]
    body = {"text_input": "Hello", "max_tokens": 6, "top_k": 40, "temperature": 5.0}
    ids = tokenizer.encode(word, add_special_tokens=False).ids
    answer = generate(server, **body, embedding_bias_words=word, embedding_bias_weights=1e4)
    assert set(tokenizer.encode(answer["text_output"]).ids) <= set(ids)
    arrays = {
        "text_input": strings("Hello", "Hello"),
        "max_tokens": np.int32([[6]] * 2),
        "embedding_bias_words": np.array([[b"q", b"the"], [b"the", b""]], np.object_),
        "embedding_bias_weights": np.float32([[-1e5, 0], [0, 9]]),
        "logit_bias": np.array([[[token, 2e4]]] * 2, np.float32),
    }
    first, second = ct.grpc_infer(server.grpc, "text_once", arrays)["text_output"][:, 0]
    assert b"q" not in first
    assert second == b"q" * 6


def test_rows_of_text_with_their_own_options(server: TritonServer, tokenizer: Tokenizer) -> None:
    arrays = {"text_input": strings(*PROMPTS[:3]), "max_tokens": np.int32([[4], [7], [9]])}
    outputs = ct.grpc_infer(server.grpc, "text_once", arrays)
    wanted = [expected_text(server, tokenizer, p, n) for p, n in zip(PROMPTS, [4, 7, 9], strict=False)]
    assert [row[0].decode() for row in outputs["text_output"]] == wanted
    responses = ct.stream_infer(server.grpc, "text", arrays | {"stream": np.array([[True]] * 3)})
    assert [b"".join(r["text_output"][i, 0] for r in responses).decode() for i in range(3)] == wanted


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; allowed"),
        ({"top_k": -1}, "top_k is -1; allowed"),
        ({"beam_width": 0}, "beam_width is 0; allowed is an integer in [1, 64]"),
        ({"num_return_sequences": 257}, "num_return_sequences is 257; allowed is [1, 256]"),
        (
            {"embedding_bias_words": ["a", "b"], "embedding_bias_weights": 1.0},
            "embedding_bias_weights has 1 values; allowed are 2",
        ),
        (
            {"embedding_bias_words": ["x", "xx"], "embedding_bias_weights": [3e38, 1e38]},
            "embedding_bias_weights add up to ",
        ),
        (
            {"embedding_bias_words": ["x"] * 8193, "embedding_bias_weights": [0.0] * 8193},
            "embedding_bias_words has 8193 words; allowed are 8192",
        ),
        ({"stop_words": ["x"] * 8193}, "stop_words has 8193 words; allowed are 8192"),
        ({"bad_words": ["x"] * 8193}, "bad_words has 8193 words; allowed are 8192"),
        ({"max_tokens": 99999}, "text_input has 1 tokens and max_tokens is 99999"),
    ],
)
def test_errors_name_the_input(server: TritonServer, body: dict[str, Any], message: str) -> None:
    status, text = ct.post(f"{server.http}/v2/models/text/generate", {"text_input": "a", **body})
    assert status == 400
    assert message in text


def test_a_bias_that_is_no_number(server: TritonServer) -> None:
    arrays = {
        "text_input": np.array([[b"a"]], np.object_),
        "embedding_bias_words": np.array([[b"a", b"b"]], np.object_),
        "embedding_bias_weights": np.float32([[1, np.nan]]),
    }
    with pytest.raises(InferenceServerException, match=r"embedding_bias_weights has the value nan; allowed"):
        ct.grpc_infer(server.grpc, "text_once", arrays)


def test_text_that_is_not_utf8(server: TritonServer) -> None:
    arrays = {"text_input": np.array([[b"\xff\xfe"]], dtype=np.object_)}
    with pytest.raises(InferenceServerException, match=r"text_input is .*not UTF-8"):
        ct.grpc_infer(server.grpc, "text_once", arrays)


def test_missing_tokenizer_names_the_file(llama: Path) -> None:
    from fastertransformer.errors import ModelLoadError
    from fastertransformer.server.tokenizer import TextTokenizer

    with pytest.raises(ModelLoadError, match="tokenizer_dir is '/nowhere': there is no file /nowhere"):
        TextTokenizer("/nowhere")
    with pytest.raises(ModelLoadError, match=r"config\.json is not a tokenizer"):
        TextTokenizer(str(llama / "config.json"))
