# SPDX-License-Identifier: BSD-3-Clause
"""Encoders behind a real server: MiniLM's embeddings, classes of texts and tokens, ids, hidden states."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import client_tools as ct
import encoder_checkpoints
import minilm
import numpy as np
import pytest
import tiny_models
import torch
from tokenizers import Tokenizer
from triton_process import TritonServer
from tritonclient.utils import InferenceServerException

from fastertransformer.cli.repository import write_repository
from fastertransformer.models.conversion import convert_checkpoint

TOLERANCE = 1e-4
LABELS = ("joy", "anger", "fear", "love", "surprise")
THREADS = {"num_threads": "1"}


def write_encoder(folder: Path, case: str) -> torch.nn.Module:
    """A tiny encoder with a tokenizer and named classes."""
    labels = dict(enumerate(LABELS))
    model = encoder_checkpoints.make(case, folder, vocab_size=tiny_models.VOCAB_SIZE, id2label=labels)
    tiny_models.write_tokenizer(folder)
    return model


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """(transformers model, folder)"""
    folder = tmp_path_factory.mktemp("classifier")
    return write_encoder(folder, "bert-classes"), folder


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagger")
    return write_encoder(folder, "roberta-tokens"), folder


@pytest.fixture(scope="module")
def deberta(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deberta")
    return encoder_checkpoints.make("deberta-classes", folder), folder


def in_files_of_fastertransformer(folder: Path, target: Path) -> Path:
    convert_checkpoint(folder, target, "fastertransformer", 2, "auto", lambda *_: None)
    return target


@pytest.fixture(scope="module")
def server(tmp_path_factory, classifier, tagger, deberta) -> Iterator[TritonServer]:
    """Of every checkpoint the models that `fastertransformer serve` writes, under names of their own."""
    folder = tmp_path_factory.mktemp("triton")
    models = folder / "models"
    checkpoints = {
        "minilm": minilm.folder(),
        "class": classifier[1],
        "tag": tagger[1],
        "old_bert": in_files_of_fastertransformer(classifier[1], folder / "bert"),
        "old_deberta": in_files_of_fastertransformer(deberta[1], folder / "deberta"),
    }
    for prefix, path in checkpoints.items():
        written = folder / prefix
        write_repository(path, written, {"data_type": "fp32", **THREADS})
        for model in written.iterdir():
            models.mkdir(exist_ok=True)
            model.rename(models / f"{prefix}_{model.name}")
    running = TritonServer(folder, models)
    yield running
    running.stop()


def text_input(texts, **more):
    arrays = {"text_input": np.array([[text.encode()] for text in texts], np.object_)}
    return arrays | more


def test_minilm_embeds_as_transformers(server):
    found = ct.grpc_infer(server.grpc, "minilm_embed", text_input(minilm.SENTENCES))
    embeddings, expected = torch.from_numpy(found["embedding"].copy()), minilm.embed(minilm.SENTENCES)
    assert (embeddings - expected).abs().max() < TOLERANCE
    assert (embeddings @ embeddings.T - expected @ expected.T).abs().max() < TOLERANCE
    counts = [len(minilm.tokenizer()(text)["input_ids"]) for text in minilm.SENTENCES]
    assert found["num_input_tokens"][:, 0].tolist() == counts


def test_requests_in_flight_together_equal_each_one_alone(server):
    texts = [" ".join(minilm.SENTENCES[: n % 4 + 1]) for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda text: ct.grpc_infer(server.grpc, "minilm_embed", text_input([text])), texts)
        )
    found = torch.from_numpy(np.concatenate([answer["embedding"] for answer in answers]))
    assert (found - minilm.embed(texts)).abs().max() < TOLERANCE


def test_http_generate_embeds(server):
    status, body = ct.post(f"{server.http}/v2/models/minilm_embed/generate", {"text_input": "Hi!"})
    assert status == 200
    embedding = torch.tensor(json.loads(body)["embedding"])
    assert (embedding - minilm.embed(["Hi!"])[0]).abs().max() < TOLERANCE


def test_token_ids_and_hidden_states(server, classifier):
    model = classifier[0]
    rows, types = [[5, 6, 7, 8, 9], [11, 12, 13, 0, 0]], [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]
    lengths = np.array([[5], [3]], np.int32)
    inputs = {
        "input_ids": np.array(rows, np.uint32),
        "token_type_ids": np.array(types, np.int32),
        "sequence_lengths": lengths,
    }
    found = ct.grpc_infer(server.grpc, "class_fastertransformer", inputs)
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    with torch.no_grad():
        expected = model.bert(torch.tensor(rows), mask, torch.tensor(types))
        logits = model(torch.tensor(rows), mask, torch.tensor(types)).logits
        embedded = model.bert.embeddings(torch.tensor(rows), torch.tensor(types))
    hidden = expected.last_hidden_state * mask[..., None]
    assert np.abs(found["output_hidden_state"] - hidden.numpy()).max() < TOLERANCE
    assert np.abs(found["pooled_output"] - expected.pooler_output.numpy()).max() < TOLERANCE
    assert np.abs(found["logits"] - logits.numpy()).max() < TOLERANCE
    assert found["embedding"].shape == (2, 48)
    again = ct.grpc_infer(
        server.grpc,
        "class_fastertransformer",
        {"input_hidden_state": embedded.numpy(), "sequence_lengths": lengths},
        outputs=[ct.grpcclient.InferRequestedOutput("output_hidden_state")],
    )
    assert list(again) == ["output_hidden_state"]
    assert np.abs(again["output_hidden_state"] - hidden.numpy()).max() < TOLERANCE


@pytest.mark.parametrize("name", ["old_bert", "old_deberta"])
def test_files_of_fastertransformer(server, classifier, deberta, name):
    model = {"old_bert": classifier, "old_deberta": deberta}[name][0]
    rows, lengths = [[5, 6, 7, 8, 9], [11, 12, 13, 0, 0]], np.array([[5], [3]], np.int32)
    inputs = {"input_ids": np.array(rows, np.uint32), "sequence_lengths": lengths}
    found = ct.grpc_infer(server.grpc, f"{name}_fastertransformer", inputs)
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    with torch.no_grad():
        hidden = model.base_model(torch.tensor(rows), mask).last_hidden_state * mask[..., None]
    assert np.abs(found["output_hidden_state"] - hidden.numpy()).max() < TOLERANCE


def test_attentions_come_where_they_are_asked_for(server, classifier):
    inputs = {
        "input_ids": np.array([[5, 6, 7, 8], [11, 12, 0, 0]], np.uint32),
        "sequence_length": np.array([[4], [2]], np.uint32),
    }
    assert "output_attentions" not in ct.grpc_infer(server.grpc, "class_fastertransformer", inputs)
    asked = {**inputs, "is_return_attentions": np.array([[True], [False]])}  # the first row decides
    found = ct.grpc_infer(server.grpc, "class_fastertransformer", asked)["output_attentions"]
    assert found.shape == (2, 2, 6, 4, 4)
    for maps, ids in zip(found, ([5, 6, 7, 8], [11, 12]), strict=True):
        with torch.no_grad():
            layers = classifier[0](torch.tensor([ids]), output_attentions=True).attentions
        expected, size = torch.cat(layers).numpy(), len(ids)
        assert np.abs(maps[..., :size, :size] - expected).max() < TOLERANCE
        assert not maps[..., size:, :].any()
        assert not maps[..., size:].any()


def test_outputs_that_need_no_model_come_alone(server):
    def ask(model: str, inputs: ct.Arrays, output: str) -> set[str]:
        return set(
            ct.grpc_infer(server.grpc, model, inputs, outputs=[ct.grpcclient.InferRequestedOutput(output)])
        )

    texts, ids = text_input(minilm.SENTENCES[:2]), {"input_ids": np.array([[5, 6]], np.uint32)}
    assert ask("tag_classify", texts, "num_input_tokens") == {"num_input_tokens"}
    assert ask("tag_classify", texts, "token_offsets") == {"token_offsets"}
    assert ask("class_fastertransformer", ids, "output_attentions") == set()  # nobody asks for them


def test_classes_of_texts(server, classifier):
    model, folder = classifier
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = ["Hello world!", "Water is denoted by the symbol H2O."]
    found = ct.grpc_infer(server.grpc, "class_classify", text_input(texts))
    for row, text in enumerate(texts):
        with torch.no_grad():
            shares = model(torch.tensor([tokenizer.encode(text).ids])).logits[0].softmax(-1)
        assert np.abs(found["probabilities"][row] - shares.numpy()).max() < TOLERANCE
        assert found["label"][row, 0].decode() == LABELS[int(shares.argmax())]


def test_classes_of_tokens(server, tagger):
    model, folder = tagger
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = ["Hello world!", "Hello"]
    found = ct.grpc_infer(server.grpc, "tag_classify", text_input(texts))
    for row, text in enumerate(texts):
        encoding = tokenizer.encode(text)
        with torch.no_grad():
            logits = model(torch.tensor([encoding.ids])).logits[0]
        count = len(encoding.ids)
        assert np.abs(found["token_logits"][row, :count] - logits.numpy()).max() < TOLERANCE
        labels = [label.decode() for label in found["token_labels"][row]]
        assert labels[:count] == [LABELS[index] for index in logits.argmax(-1).tolist()]
        assert set(labels[count:]) <= {""}
        assert found["token_offsets"][row, :count].tolist() == [list(span) for span in encoding.offsets]


def test_a_long_text_is_refused_or_cut(server):
    text = "word " * 600
    with pytest.raises(InferenceServerException, match="text_input has 602 tokens; the model takes 1 to 512"):
        ct.grpc_infer(server.grpc, "minilm_embed", text_input([text]))
    pair = {"text_pair": np.array([[text.encode()]], np.object_)}
    with pytest.raises(InferenceServerException, match="text_input with text_pair has 604 tokens"):
        ct.grpc_infer(server.grpc, "minilm_embed", text_input(["a"], **pair))
    found = ct.grpc_infer(server.grpc, "minilm_embed", text_input([text], truncate=np.array([[True]])))
    assert (torch.from_numpy(found["embedding"].copy()) - minilm.embed([text])).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "one of input_ids and input_hidden_state is needed; none came"),
        ({"input_ids": np.array([[5, 300]], np.uint32)}, "input_ids: token id 300 at position 1"),
        (
            {"input_ids": np.array([[5]], np.uint32), "sequence_lengths": np.array([[2]], np.int32)},
            "sequence_lengths is 2; allowed is [1, 1]",
        ),
        ({"input_hidden_state": np.zeros((1, 3, 47), np.float32)}, "allowed is [tokens, 48]"),
        (
            {"input_ids": np.array([[5]], np.uint32), "token_type_ids": np.array([[2]], np.int32)},
            "token_type_ids: 2 at position 0 is not in [0, 2)",
        ),
        (
            {"input_ids": np.array([[5]], np.uint32), "ia3_tasks": np.array([[0]], np.int32)},
            "ia3_tasks is 0, but the model has no IA3 adapters",
        ),
    ],
)
def test_bad_input_is_refused(server, inputs, message):
    arrays = inputs or {"token_type_ids": np.array([[0]], np.int32)}
    with pytest.raises(InferenceServerException) as error:
        ct.grpc_infer(server.grpc, "class_fastertransformer", arrays)
    assert message in str(error.value)
