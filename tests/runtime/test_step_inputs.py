# SPDX-License-Identifier: BSD-3-Clause
"""What graphs of prompts read is what a step of its own would, and behind it there is nobody."""

import dataclasses

import numpy as np
import torch
from step_batches import (
    CROSS_WIDTH,
    LAYOUT,
    NOBODYS,
    TABLE_WIDTH,
    batch_of,
    check,
    with_beams,
    with_encoder,
)

from fastertransformer.engine.batch import Batch
from fastertransformer.runtime.buckets import Bucket
from fastertransformer.runtime.device_batch import Limits, device_batch, place
from fastertransformer.runtime.step_inputs import StepInputs

WORKSPACE = torch.zeros(0)


def inputs_of(cross_width: int = 0, has_ia3: bool = False, tokens: int = 64) -> StepInputs:
    return StepInputs(Bucket(tokens, 5, tokens), LAYOUT, TABLE_WIDTH, cross_width, has_ia3)


def mixed(samples: list[int] | None = None) -> Batch:
    """A prompt, a single token of a long sequence, the last part of a prompt, a single token."""
    return batch_of(0, 600, 13, 7, query_lens=[20, 1, 9, 1], samples=samples)


def checked(inputs: StepInputs, batch: Batch) -> None:
    """`check`, and that nobody has queries."""
    check(inputs, batch)
    bounds = inputs.arrays["cu_seqlens_q"]
    assert (bounds[len(batch.slots) :] == batch.num_tokens).all()


def test_at_first_there_is_nobody():
    arrays = inputs_of(CROSS_WIDTH, has_ia3=True).arrays
    for name, array in arrays.items():
        assert (array == NOBODYS.get(name, 0)).all(), name


def test_prompts_beside_single_tokens():
    checked(inputs_of(), mixed())


def test_a_step_that_fills_its_bucket():
    checked(inputs_of(tokens=31), batch_of(0, 600, 13, 7, 2, query_lens=[19, 1, 9, 1, 1]))


def test_a_chunk_in_front_of_the_end_does_not_sample():
    inputs = inputs_of()
    checked(inputs, mixed())
    checked(inputs, mixed(samples=[1, 3]))
    assert inputs.arrays["sample_slots"].tolist() == [2, 0, -1, -1, -1]
    assert inputs.arrays["last_tokens"].tolist() == [20, 30, 0, 0, 0]
    checked(inputs, batch_of(16, query_lens=[40], samples=[]))
    assert inputs.arrays["sample_slots"].tolist() == [-1] * 5


def test_what_an_earlier_step_left_is_gone():
    inputs = inputs_of()
    checked(inputs, with_beams(mixed(), [0, 2]))
    checked(inputs, batch_of(0, query_lens=[7]))
    checked(inputs, mixed())


def test_every_token_sees_the_encoder_of_its_sequence():
    inputs = inputs_of(CROSS_WIDTH)
    checked(inputs, with_encoder(mixed(), 3, 260, 9, 1))
    checked(inputs, with_encoder(batch_of(0, query_lens=[2]), 257))
    assert inputs.arrays["cross_seq_lens"].tolist() == [257, 257] + [0] * 62


def test_every_token_has_the_task_of_its_sequence():
    inputs = inputs_of(has_ia3=True)
    checked(inputs, dataclasses.replace(mixed(), ia3_rows=np.array([3, 1, 0, 2], np.int32)))
    checked(inputs, mixed())


def test_a_graph_reads_what_the_host_packed():
    inputs, batch = inputs_of(CROSS_WIDTH), with_encoder(mixed(), 3, 260, 9, 1)
    limits = Limits(max_seqlen_q=64, max_seqlen_k=640, max_encoder_len=320, max_candidates=4)
    step = device_batch(inputs.arrays, torch.from_numpy(inputs.fill(batch)), WORKSPACE, limits)
    own = place(batch, LAYOUT, WORKSPACE)
    assert own.metadata.max_seqlen_q == 20
    assert own.metadata.max_seqlen_k == 601
    assert own.metadata.cross.max_seqlen_k == 260
    assert (step.metadata.max_seqlen_q, step.metadata.max_seqlen_k) == (64, 640)
    assert step.metadata.cross.max_seqlen_k == 320
    for name in ("positions", "slot_mapping", "cu_seqlens_q", "seq_lens"):
        mine, theirs = getattr(own.metadata, name), getattr(step.metadata, name)
        assert mine.tolist() == theirs[: len(mine)].tolist(), name
    assert step.sample_slots.tolist() == [3, 2, 1, 0, -1]
    assert step.metadata.work.tolist() == [[0, 0, 3, 3, 4, 4], [0, 1, 1, 2, 2, 2]]
