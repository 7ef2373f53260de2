# SPDX-License-Identifier: BSD-3-Clause
"""Token ids on their way from a tensor to the engine."""

import numpy as np
import pytest

from fastertransformer.errors import InvalidRequest
from fastertransformer.messages import EngineInfo, PromptKind, PromptLearning
from fastertransformer.server.contracts.prompts import packed_ids, read_prompt


def test_ids_of_any_size_that_travels():
    ids = (0, 2**31, -1, 2**63 - 1)
    assert tuple(packed_ids("input_ids", ids, 100)) == ids


def test_an_id_that_cannot_travel_is_named():
    with pytest.raises(InvalidRequest) as error:
        packed_ids("input_ids", (7, 2**63, 8), 100)
    assert str(error.value) == f"input_ids: token id {2**63} at position 1 is not in the vocabulary [0, 100)"


@pytest.mark.parametrize(
    "values",
    [
        {"prompt_embedding": np.zeros((2, 4), np.float32), "prompt_rows": 2, "prompt_type": 1},
        {"prompt_embedding": np.zeros((2, 4), np.float32), "prompt_rows": 2, "prompt_type": 3},
        {"prompt_table": np.zeros((2, 4), np.float32), "prompt_vocab_size": 2},
        {"prompt_task": 0},
    ],
)
def test_no_client_names_a_row_by_a_negative_id(values):
    """As the engine does."""
    learning = PromptLearning(start_id=100, kind=PromptKind.VIRTUAL, task_names=("a",), lengths=(2,))
    info = EngineInfo(
        model_type="llama",
        vocab_size=100,
        max_model_len=64,
        start_id=1,
        end_ids=(2,),
        plan="",
        embedding_size=4,
        prompt_learning=learning,
    )
    assert read_prompt(values, (7, 8), info).tokens[-2:] == (7, 8)
    with pytest.raises(InvalidRequest) as error:
        read_prompt(values, (7, -1), info)
    assert str(error.value) == "input_ids: token id -1 at position 1 is not in the vocabulary [0, 100)"
