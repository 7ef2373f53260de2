# SPDX-License-Identifier: BSD-3-Clause
"""What the adapter reads of a config.pbtxt's parameters."""

import pytest

from fastertransformer.errors import ModelLoadError
from fastertransformer.server import parameters


def test_slots_that_nobody_filled_are_absent():
    entries = {"a": "1", "b": "${b}", "c": ""}
    config = {"parameters": {key: {"string_value": value} for key, value in entries.items()}}
    assert parameters.read(config) == {"a": "1"}
    assert parameters.read({}) == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("TRUE", True), ("yes", True), ("0", False), ("False", False), ("no", False)],
)
def test_flags(text, value):
    assert parameters.flag({"decoupled": text}, "decoupled", not value) is value
    assert parameters.flag({}, "decoupled", value) is value


@pytest.mark.parametrize("text", ["2", "on", "-"])
def test_what_is_no_flag(text):
    with pytest.raises(ModelLoadError, match=f"parameter decoupled is '{text}'; allowed are true and false"):
        parameters.flag({"decoupled": text}, "decoupled", False)


def test_seconds():
    assert parameters.seconds({"patience": "2.5"}, "patience", 1.0) == 2.5
    assert parameters.seconds({}, "patience", 1.0) == 1.0


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_what_is_no_time(text):
    with pytest.raises(
        ModelLoadError, match=f"parameter patience is '{text}'; allowed is a number of seconds"
    ):
        parameters.seconds({"patience": text}, "patience", 1.0)
