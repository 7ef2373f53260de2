# SPDX-License-Identifier: BSD-3-Clause
"""What graphs of decode steps read is what a step of its own would, and behind it there is nobody."""

import dataclasses

import numpy as np
import pytest
from msgspec.structs import replace
from step_batches import CROSS_WIDTH, LAYOUT, TABLE_WIDTH, batch_of, check, with_beams, with_encoder
from toy_engine import ENCODING, INFO, ToyEngine, ToyRunner, engine_config, request

from fastertransformer.config import EngineConfig
from fastertransformer.engine.batch import Batch, StepResult
from fastertransformer.messages import EngineInfo, token_ids
from fastertransformer.runtime.buckets import Bucket, decode_buckets, first_that_holds
from fastertransformer.runtime.decode_inputs import DecodeInputs
from fastertransformer.runtime.device_batch import CacheLayout

NUM_BLOCKS = 28


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


def further(batch: Batch, steps: int = 1, **changed: object) -> Batch:
    """The same sequences some steps later."""
    return dataclasses.replace(batch, num_computed=batch.num_computed + steps, **changed)


@pytest.mark.parametrize("block_size", [8, 96, 512])
@pytest.mark.parametrize("memory_blocks", [None, [0, 3, 1]])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_same_sequences_count_on_past_ends_of_blocks_and_chunks(block_size, memory_blocks, steps):
    """Blocks may be there before they are needed, so that tables stay the same; and the tables change."""
    layout = CacheLayout(block_size, LAYOUT.num_kv_heads)
    inputs = DecodeInputs(Bucket(4, 4, 1), layout, TABLE_WIDTH, 0, False)
    blocks = None if memory_blocks is None else np.array(memory_blocks, np.int32)
    batch = dataclasses.replace(batch_of(5, 603, 247), memory_blocks=blocks)
    for number in range(20):
        check(inputs, batch, layout)
        changed = {"block_tables": batch.block_tables + 7} if number % 6 == 5 else {}
        batch = further(batch, steps, **changed)
    check(inputs, batch_of(9, 4), layout)
    check(inputs, further(batch), layout)


def test_steps_between_two_of_the_same_sequences_change_nothing():
    tables = np.array([[5, 6, 7], [1, 2, 3]], np.int32)
    inputs, batch = inputs_of(), dataclasses.replace(batch_of(0, 11), block_tables=tables)
    check(inputs, batch)
    check(inputs, batch)
    check(inputs, batch_of(9, 4, 5))
    check(inputs, further(batch))
    check(inputs, further(batch, 4))
    check(inputs, further(batch, 5))
    check(inputs, further(batch, 9))


class CheckingRunner(ToyRunner):
    """Fills the inputs of graphs with every decode step, as a runner on a GPU does."""

    def __init__(self, config: EngineConfig, info: EngineInfo) -> None:
        super().__init__(config, NUM_BLOCKS)
        self._layout = CacheLayout(config.cache.block_size, 2)
        self._buckets = decode_buckets(config.max_num_seqs)
        self._inputs = {
            bucket: DecodeInputs(
                bucket, self._layout, TABLE_WIDTH, CROSS_WIDTH if info.max_encoder_len else 0, False
            )
            for bucket in self._buckets
        }
        self.num_checked = self.num_repeated = 0
        self._slots: np.ndarray | None = None

    def execute(self, batch: Batch) -> StepResult:
        if len(batch.sample_rows) == len(batch.slots) == batch.num_tokens:
            bucket = first_that_holds(self._buckets, batch.num_tokens, len(batch.slots))
            check(self._inputs[bucket], batch, self._layout)
            self.num_checked += 1
            self.num_repeated += batch.slots is self._slots
        self._slots = batch.slots
        return super().execute(batch)


@pytest.mark.parametrize("has_encoder", [False, True])
@pytest.mark.parametrize("depth", [0, 1])
def test_steps_of_a_scheduler_that_preempts(depth, has_encoder):
    config, info = engine_config(max_num_seqs=6, reuse=True), ENCODING if has_encoder else INFO
    engine = ToyEngine(config, NUM_BLOCKS, depth, info)
    engine.runner = CheckingRunner(config, info)
    random = np.random.default_rng(5)
    for number in range(40):
        prompt = [3, 1, 4, 1, 5, *random.integers(1, 9, random.integers(1, 12)).tolist()]
        wishes = {"memory_len": 8 * (number % 3 == 2)}
        if has_encoder:
            wishes = {"encoder_tokens": token_ids((5,) * (number % 7 + 1))}
        width = 3 if number % 10 == 9 else 1
        engine.add(replace(request(number, prompt, 24, end_ids=(), beam_width=width), **wishes))
        for _ in range(int(random.integers(0, 12))):
            engine.step()
    engine.run()
    assert engine.scheduler.stats.num_preemptions > 0
    assert engine.runner.num_checked > engine.runner.num_repeated > 50


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
