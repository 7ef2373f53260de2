# SPDX-License-Identifier: BSD-3-Clause
"""The encoders' contract without a server: ids that cannot travel to the engine."""

import numpy as np
import pytest

from fastertransformer.errors import InvalidRequest
from fastertransformer.messages import EncoderInfo, EngineInfo
from fastertransformer.server.contracts.encoder import EncoderContract

INFO = EngineInfo(
    model_type="bert",
    vocab_size=50,
    max_model_len=64,
    start_id=0,
    end_ids=(),
    plan="",
    encoder=EncoderInfo(hidden_size=8, num_token_types=2, outputs=("last_hidden_state",)),
)


def test_ids_of_64_bits_are_named():
    contract = EncoderContract({"input": [{"name": "input_ids", "data_type": "TYPE_UINT64"}], "output": []})
    ids = np.array([[3, 2**64 - 1, 7]], np.uint64)
    with pytest.raises(
        InvalidRequest, match=rf"input_ids: token id {2**64 - 1} at position 1 is not in .* \[0, 50\)"
    ):
        contract.open({"input_ids": ids}, INFO)
