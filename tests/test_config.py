# SPDX-License-Identifier: BSD-3-Clause
"""What parameters mean that depend on the machine."""

import pytest

from fastertransformer.config import resolve_data_type
from fastertransformer.errors import ModelLoadError


@pytest.mark.parametrize(
    ("data_type", "device", "resolved"),
    [("auto", "cpu", "fp32"), ("auto", "cuda", "bf16"), ("fp16", "cpu", "fp16"), ("fp32", "cuda", "fp32")],
)
def test_data_type(data_type, device, resolved):
    assert resolve_data_type(data_type, device) == resolved


def test_unknown_data_type():
    with pytest.raises(ModelLoadError, match="data_type is 'fp12'; allowed are fp32, fp16, bf16, auto"):
        resolve_data_type("fp12", "cpu")
