# SPDX-License-Identifier: BSD-3-Clause
"""config.pbtxt may declare integers of other widths and signs: what does not fit is refused, and named."""

import re
from pathlib import Path
from typing import Any

import client_tools as ct
import numpy as np
import pytest

from fastertransformer.errors import InvalidRequest
from fastertransformer.messages import EncoderInfo, EngineInfo
from fastertransformer.server.contracts.core import CoreContract
from fastertransformer.server.contracts.encoder import EncoderContract
from fastertransformer.server.contracts.prompts import matrix_rows
from fastertransformer.server.ensemble.postprocessing import Postprocessing
from fastertransformer.server.ensemble.preprocessing import Preprocessing

_SIZES: dict[str, Any] = {"max_model_len": 64, "start_id": 0, "end_ids": (1,), "plan": ""}
DECODER = EngineInfo(model_type="llama", vocab_size=100, **_SIZES)
ENCODER = EngineInfo(
    model_type="bert",
    vocab_size=100,
    encoder=EncoderInfo(hidden_size=4, num_token_types=2, outputs=("logits",)),
    **_SIZES,
)


def declared(arrays: ct.Arrays, data_type: str) -> dict[str, Any]:
    return {"input": [{"name": name, "data_type": data_type, "dims": [-1]} for name in arrays], "output": []}


def test_a_memory_of_less_than_nothing() -> None:
    arrays = ct.core_inputs([[5, 6]], 4) | {"memory_len": np.int64([[-1]])}
    with pytest.raises(InvalidRequest, match="memory_len is -1; allowed is an integer >= 0"):
        CoreContract(declared(arrays, "TYPE_INT64")).open(arrays, DECODER)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("input_ids", f"input_ids: token id {2**63} at position 1 is not in the vocabulary [0, 100)"),
        ("token_type_ids", f"token_type_ids: {2**63} is not in [0, 2^63)"),
    ],
)
def test_what_does_not_travel_to_an_encoder(name: str, message: str) -> None:
    arrays = {"input_ids": np.uint64([[5, 6]]), name: np.uint64([[1, 2**63]])}
    with pytest.raises(InvalidRequest) as error:
        EncoderContract(declared(arrays, "TYPE_UINT64")).open(arrays, ENCODER)
    assert str(error.value) == message


NO_EMBEDDINGS = [(np.nan, "has the value nan; allowed is"), (1e300, "has the value 1e[+]300; allowed is")]


@pytest.mark.parametrize(("value", "message"), NO_EMBEDDINGS)
def test_hidden_states_that_are_no_numbers(value: float, message: str) -> None:
    """Those behind a row's length may be anything."""
    states = np.zeros((1, 3, 4), np.float64)
    states[0, 2] = value
    config = {"input": [{"name": "input_hidden_state", "data_type": "TYPE_FP64"}], "output": []}
    config["input"].append({"name": "sequence_lengths", "data_type": "TYPE_INT32"})
    contract = EncoderContract(config)
    contract.open({"input_hidden_state": states, "sequence_lengths": np.int32([[2]])}, ENCODER)
    with pytest.raises(InvalidRequest, match=f"input_hidden_state {message}"):
        contract.open({"input_hidden_state": states}, ENCODER)


@pytest.mark.parametrize(("value", "message"), NO_EMBEDDINGS)
def test_prompts_that_are_no_numbers(value: float, message: str) -> None:
    arrays = ct.core_inputs([[5, 6]], 4, request_prompt_lengths=1, request_prompt_type=1)
    config = declared(arrays, "TYPE_UINT32")
    config["input"].append({"name": "request_prompt_embedding", "data_type": "TYPE_FP64"})
    arrays["request_prompt_embedding"] = np.full((1, 1, 4), value)
    with pytest.raises(InvalidRequest, match=f"request_prompt_embedding {message}"):
        CoreContract(config).open(arrays, DECODER)


@pytest.mark.parametrize("value", [65505, -3e38])
def test_embeddings_that_norms_cannot_square(value: float) -> None:
    allowed = re.escape(f"has the value {value:g}; allowed is [-65504, 65504]")
    states = np.zeros((1, 3, 4), np.float32)
    states[0, 1, 2] = 65504
    config = declared({"input_hidden_state": states}, "TYPE_FP32")
    EncoderContract(config).open({"input_hidden_state": states}, ENCODER)
    states[0, 0, 0] = value
    with pytest.raises(InvalidRequest, match=f"input_hidden_state {allowed}"):
        EncoderContract(config).open({"input_hidden_state": states}, ENCODER)
    with pytest.raises(InvalidRequest, match=f"request_prompt_embedding {allowed}"):
        matrix_rows("request_prompt_embedding", states, 1)


@pytest.mark.parametrize("length", [-1, 2**32])
def test_an_output_length_that_would_become_another(llama: Path, length: int) -> None:
    arrays = {"QUERY": np.array([[b"a"]], np.object_), "REQUEST_OUTPUT_LEN": np.int64([[length]])}
    types = {"QUERY": "TYPE_STRING", "REQUEST_OUTPUT_LEN": "TYPE_INT64"}
    config = {"input": [{"name": name, "data_type": kind, "dims": [-1]} for name, kind in types.items()]}
    step = Preprocessing(config, {"tokenizer_dir": str(llama)})
    with pytest.raises(
        InvalidRequest, match=rf"REQUEST_OUTPUT_LEN is {length}; allowed is \[1, {2**32 - 1}\]"
    ):
        step.compute(arrays, is_first=True)


@pytest.mark.parametrize("token", [-1, 2**32])
def test_ids_that_no_tokenizer_takes(llama: Path, token: int) -> None:
    step = Postprocessing(
        {"input": [{"name": "TOKENS_BATCH", "data_type": "TYPE_INT64"}]}, {"tokenizer_dir": str(llama)}
    )
    with pytest.raises(InvalidRequest, match=rf"TOKENS_BATCH: token id {token} is not in \[0, {2**32 - 1}\]"):
        step.compute({"TOKENS_BATCH": np.int64([[[5, token]]])}, is_first=True)
