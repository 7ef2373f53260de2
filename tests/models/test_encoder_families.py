# SPDX-License-Identifier: BSD-3-Clause
"""Every encoder family and head against transformers: tiny random models, inputs packed without padding."""

from dataclasses import replace

import pytest
import torch
from driver import load_model
from encoder_checkpoints import CASES, make
from encoder_driver import encode, metadata_of
from tiny_checkpoints import change_config

from fastertransformer.errors import ModelLoadError

TOLERANCE = 1e-4
LENGTHS = (1, 7, 33, 100)


def inputs_and_types(config):
    generator = torch.Generator().manual_seed(1)
    count = getattr(config, "type_vocab_size", 0)
    inputs = [torch.randint(3, 101, (length,), generator=generator).tolist() for length in LENGTHS]
    types = [torch.randint(0, max(count, 1), (length,), generator=generator).tolist() for length in LENGTHS]
    return inputs, types if count else None


def expected(model, ids, types):
    """By our names, what transformers has for one input."""
    more = {} if types is None else {"token_type_ids": torch.tensor([types])}
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_hidden_states=True, **more)
    last = found.get("last_hidden_state", found.hidden_states[-1])
    values = {"last_hidden_state": last[0]}
    kind = type(model).__name__
    if getattr(found, "pooler_output", None) is not None:
        values["pooled_output"] = found.pooler_output[0]
    if "prediction_logits" in found:
        values["vocabulary_logits"] = found.prediction_logits[0]
        values["next_sentence_logits"] = found.seq_relationship_logits[0]
    names = {
        "MaskedLM": "vocabulary_logits",
        "SequenceClassification": "logits",
        "TokenClassification": "token_logits",
        "NextSentencePrediction": "next_sentence_logits",
    }
    values |= {name: found.logits[0] for suffix, name in names.items() if kind.endswith(suffix)}
    if kind.endswith("QuestionAnswering"):
        values["span_logits"] = torch.stack((found.start_logits[0], found.end_logits[0]), -1)
    return values


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """(transformers model, checkpoint folder)"""
    folder = tmp_path_factory.mktemp(request.param)
    return make(request.param, folder), folder


def test_outputs_equal_transformers(pair):
    reference, folder = pair
    inputs, types = inputs_and_types(reference.config)
    alone = [expected(reference, ids, types and types[row]) for row, ids in enumerate(inputs)]
    model = load_model(folder)
    assert set(alone[0]) <= set(model.outputs)
    found = encode([model], inputs, list(alone[0]), types)
    for name, values in found.items():
        wanted = torch.cat([row[name].reshape(-1, values.shape[-1]) for row in alone])
        assert (values - wanted).abs().max() < TOLERANCE, name


def test_the_last_layer_leaves_the_tokens_that_are_kept(pair):
    model = load_model(pair[1])
    metadata, kept = metadata_of(LENGTHS), torch.tensor([0, 5, 8, 41], dtype=torch.int32)
    hidden = torch.randn((sum(LENGTHS), model.spec.hidden_size), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        whole = model.forward(hidden.clone(), metadata)
        part = model.forward(hidden.clone(), replace(metadata, kept=kept))
    torch.testing.assert_close(part, whole[kept], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mpnet", {"relative_attention_num_buckets": 64}, "num_buckets is 64; only 32 is supported"),
        ("electra", {"embedding_size": 24}, "embedding_size is 24; only 48 is supported"),
        ("electra", {"embedding_size": None}, "embedding_size is 128; only 48 is supported"),
        ("mpnet", {"pad_token_id": 0}, "pad_token_id is 0; only 1 is supported"),
        (
            "deberta",
            {"relative_attention": False},
            "names p2c, c2p; allowed is none without relative_attention",
        ),
    ],
)
def test_options_without_support_are_refused(name, changes, message, tmp_path):
    make(name, tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ModelLoadError, match=message):
        load_model(tmp_path)
