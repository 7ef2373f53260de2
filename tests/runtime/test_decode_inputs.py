# SPDX-License-Identifier: BSD-3-Clause
"""What graphs of decode steps read is what a step of its own would, and behind it there is nobody."""

import dataclasses

import numpy as np
import pytest
from step_batches import CROSS_WIDTH, LAYOUT, TABLE_WIDTH, batch_of, check, with_beams, with_encoder

from fastertransformer.runtime.buckets import Bucket
from fastertransformer.runtime.decode_inputs import DecodeInputs


def inputs_of(cross_width: int = 0, has_ia3: bool = False) -> DecodeInputs:
    return DecodeInputs(Bucket(4, 4, 1), LAYOUT, TABLE_WIDTH, cross_width, has_ia3)


def test_rows_of_an_earlier_step_are_gone():
    inputs = inputs_of()
    check(inputs, batch_of(5, 600, 17, 8))
    check(inputs, batch_of(6, 601))
    check(inputs, batch_of(7, 602, 3))


def test_beams_have_candidates_as_long_as_they_are_in_the_step():
    inputs = inputs_of()
    check(inputs, with_beams(batch_of(5, 6, 7), [0, 2]))
    check(inputs, batch_of(6, 7, 8))


def test_sequences_that_forget_see_their_last_blocks():
    batch = dataclasses.replace(batch_of(5, 600, 17), memory_blocks=np.array([0, 3, 1], np.int32))
    check(inputs_of(), batch)


@pytest.mark.parametrize("keeps_cross", [True, False])
def test_encoders_are_those_of_the_batch(keeps_cross):
    inputs = inputs_of(CROSS_WIDTH)
    first = with_encoder(batch_of(5, 6, 7), 3, 260, 9)
    check(inputs, first)
    again = first if keeps_cross else with_encoder(batch_of(6, 7, 8), 3, 260, 9)
    check(inputs, again)
    check(inputs, with_encoder(batch_of(1, 2), 257, 1))
    check(inputs, first)


def test_every_row_has_the_task_of_its_sequence():
    inputs = inputs_of(has_ia3=True)
    check(inputs, dataclasses.replace(batch_of(5, 6), ia3_rows=np.array([3, 1], np.int32)))
    check(inputs, batch_of(5, 6))
