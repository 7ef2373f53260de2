# SPDX-License-Identifier: BSD-3-Clause
"""The tensor ia3_tasks in the contracts of encoder-decoders and encoders, read without a server."""

import client_tools as ct
import numpy as np
import pytest

from fastertransformer.errors import InvalidRequest
from fastertransformer.messages import EncoderInfo, EngineInfo
from fastertransformer.server.contracts.encoder import EncoderContract
from fastertransformer.server.contracts.encoder_decoder import EncoderDecoderContract

INPUTS = [[5, 6, 7], [8], [9, 10]]
_SIZES = {"vocab_size": 101, "max_model_len": 64, "start_id": 0, "end_ids": (1,), "plan": ""}
_ENCODER = EncoderInfo(hidden_size=48, num_token_types=0, outputs=("last_hidden_state",))


def info(model_type: str, num_tasks: int, **more: object) -> EngineInfo:
    return EngineInfo(model_type=model_type, num_ia3_tasks=num_tasks, **_SIZES, **more)


def tasks_of_t5(num_tasks: int, **more: object) -> list[int | None]:
    arrays = ct.encoder_decoder_inputs(INPUTS, 5, **more)
    inputs = [{"name": name, "data_type": "TYPE_INT32"} for name in arrays]
    contract = EncoderDecoderContract({"input": inputs, "output": []})
    t5 = info(
        "t5",
        num_tasks,
        max_encoder_len=64,
        encoder_vocab_size=101,
        max_num_seqs=8,
        num_blocks=99,
        block_size=8,
    )
    return [row.request.ia3_task for row in contract.open(arrays, t5).rows]


def tasks_of_encoder(num_tasks: int, **more: object) -> list[int | None]:
    arrays = ct.core_inputs(INPUTS, 5, **more)
    arrays["sequence_length"] = arrays.pop("input_lengths")
    del arrays["request_output_len"]
    inputs = [{"name": name, "data_type": "TYPE_INT32"} for name in arrays]
    contract = EncoderContract({"input": inputs, "output": []})
    rows = contract.open(arrays, info("t5", num_tasks, encoder=_ENCODER)).rows
    return [row.request.ia3_task for row in rows]


@pytest.fixture(params=[tasks_of_t5, tasks_of_encoder])
def tasks(request):
    """(number of the model's tasks, inputs) -> the task of every row's request"""
    return request.param


def test_rows_have_tasks_of_their_own_or_one_for_all(tasks):
    assert tasks(3, ia3_tasks=[2, 0, 1]) == [2, 0, 1]
    assert tasks(3, ia3_tasks=np.array([[1]], np.int32)) == [1, 1, 1]
    assert tasks(3) == tasks(0) == [None] * 3


@pytest.mark.parametrize(
    ("num_tasks", "sent", "message"),
    [
        (0, 0, "ia3_tasks is 0, but the model has no IA3 adapters"),
        (3, 3, r"ia3_tasks is 3; the model has the IA3 tasks \[0, 3\)"),
        (3, [0, -1, 2], r"ia3_tasks is -1; the model has the IA3 tasks \[0, 3\)"),
        (3, np.zeros((2, 1), np.int32), r"ia3_tasks has shape \[2, 1\]; allowed are \[3, 1\] and \[3\]"),
    ],
)
def test_a_task_that_is_not_there_is_named(tasks, num_tasks, sent, message):
    with pytest.raises(InvalidRequest, match=message):
        tasks(num_tasks, ia3_tasks=sent)


def test_samples_of_a_row_have_its_task():
    assert tasks_of_t5(3, ia3_tasks=[2, 0, 1], num_return_sequences=2) == [2, 2, 0, 0, 1, 1]
