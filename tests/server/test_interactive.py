# SPDX-License-Identifier: BSD-3-Clause
"""Conversations on a real server: every turn gets what one long prompt gets, whatever comes between."""

import os
import re
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import client_tools as ct
import numpy as np
import pytest
from repositories import write_model
from tiny_models import LONG, MAX_POSITIONS
from triton_process import TritonServer, wait_for
from tritonclient.utils import InferenceServerException

NUM_MODELS = 5
GREEDY: dict[str, Any] = {}
SEEDED = {"runtime_top_k": 30, "temperature": 1.5, "random_seed": 7}
FIRST, SECOND, THIRD = [[11, 12, 13, 14]], [[21, 22, 23, 24, 25]], [[31]]


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory, gpt2: Path) -> Iterator[TritonServer]:
    """Models of one engine: conversations in both modes and in the old config.pbtxt, and single requests."""
    folder = tmp_path_factory.mktemp("interactive")
    models = folder / "models"
    write_model(models, gpt2, "fastertransformer", "single")
    write_model(models, gpt2, "fastertransformer", "talk", "interactive")
    write_model(models, gpt2, "fastertransformer", "stream", "interactive", decoupled=True)
    write_model(models, gpt2, "fastertransformer", "old", "interactive")
    config = models / "old" / "config.pbtxt"
    old_ways = {
        "oldest { max_candidate_sequences: 1024 }": "direct { }",
        "microseconds: 600000000": "microseconds: 60000000",
        'session_len" data_type: TYPE_UINT32 dims: [ -1, 1 ]': 'session_len" data_type: TYPE_UINT32'
        " dims: [ -1, 1 ] reshape: { shape: [ -1 ] }",
        'input_lengths" data_type: TYPE_UINT32 dims: [ -1, 1 ]': 'input_lengths" data_type: TYPE_UINT32'
        " dims: [ -1, 1 ] reshape: { shape: [ -1 ] }",
    }
    text = config.read_text()
    for new, old in old_ways.items():
        assert new in text
        text = text.replace(new, old)
    config.write_text(text)
    short = models / "short" / "config.pbtxt"  # declares no tensors
    (short.parent / "1").mkdir(parents=True)
    parts = re.split(r"\n(?=input \[)", (models / "talk" / "config.pbtxt").read_text())
    short.write_text(parts[0].replace('name: "talk"', 'name: "short"'))
    running = TritonServer(folder, models)
    yield running
    running.stop()


def turn(prompts: Sequence[Sequence[int]], new: Any, **more: Any) -> ct.Arrays:
    """Tensors of one turn, with their dimension in front."""
    return {name: array[np.newaxis] for name, array in ct.core_inputs(prompts, new, **more).items()}


class Talk:
    """One conversation of one client."""

    def __init__(
        self, server: TritonServer, sequence_id: int | str, model: str = "talk", **more: Any
    ) -> None:
        self.server = server
        self.id = sequence_id
        self.model = model
        self.more = more
        self.begun = False

    def say(self, prompts: Sequence[Sequence[int]], new: Any, ends: bool = False, **more: Any) -> ct.Arrays:
        """The response, without the dimension in front."""
        options = {"sequence_id": self.id, "sequence_start": not self.begun, "sequence_end": ends}
        self.begun = True
        outputs = self.infer(turn(prompts, new, **self.more, **more), options)
        return {name: array[0] for name, array in outputs.items()}

    def infer(self, arrays: ct.Arrays, options: dict[str, Any]) -> ct.Arrays:
        return ct.grpc_infer(self.server.grpc, self.model, arrays, **options)


class HttpTalk(Talk):
    def infer(self, arrays: ct.Arrays, options: dict[str, Any]) -> ct.Arrays:
        return ct.http_infer(self.server.http, self.model, arrays, **options)


class StreamTalk(Talk):
    def infer(self, arrays: ct.Arrays, options: dict[str, Any]) -> ct.Arrays:
        with ct.open_stream(self.server.grpc) as stream:
            stream.send(self.model, arrays, **options)
            return list(stream.responses())[-1]


def ids(outputs: ct.Arrays) -> list[int]:
    """A conversation of one row so far: without padding `sequence_length` counts all of it."""
    return outputs["output_ids"][0, 0, : outputs["sequence_length"][0, 0]].tolist()


def single(server: TritonServer, prompt: list[int], new: int, **more: Any) -> list[int]:
    """Prompt and answer of one request without a conversation."""
    return ids(ct.grpc_infer(server.grpc, "single", ct.core_inputs([prompt], new, **more)))


def kept_blocks(server: TritonServer) -> int:
    stats = server.observe("gpt2")
    return stats.num_total_blocks - stats.num_free_blocks


def wait_until_nothing_is_kept(server: TritonServer) -> None:
    """The engine hears of the end of a conversation when the client has got its last answer."""
    wait_for(lambda: kept_blocks(server) == 0, 60, "nothing is kept")


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize(
    ("kind", "model", "sequence_id"),
    [
        (Talk, "talk", 101),
        (HttpTalk, "talk", "a name"),
        (StreamTalk, "stream", "another"),
        (Talk, "old", 2**63 - 5),
        (Talk, "short", 1),
    ],
)
def test_turns_equal_one_long_prompt(
    talking: TritonServer, kind: type[Talk], model: str, sequence_id: int | str, sampling: dict[str, Any]
) -> None:
    talk = kind(talking, sequence_id, model, **sampling)
    said = ids(talk.say(FIRST, 20, session_len=512, memory_len=512))
    assert said == single(talking, FIRST[0], 20, **sampling)
    for prompts, new, ends in ((SECOND, 9, False), (THIRD, 30, True)):
        answer = ids(talk.say(prompts, new, ends))
        assert answer == single(talking, said + prompts[0], new, **sampling)
        said = answer
    wait_until_nothing_is_kept(talking)


def test_rows_keep_their_own_histories(talking: TritonServer) -> None:
    talk = Talk(talking, 1)
    prompts = [[11, 12, 13], [], [41]]
    first = talk.say(prompts, [4, 9, 6], min_length=9, is_return_log_probs=True)
    assert first["output_ids"].shape == (3, 1, 3 + 9)
    assert first["sequence_length"].tolist() == [[3 + 4], [3 + 9], [3 + 6]]
    said = [
        first["output_ids"][row, 0, : len(p) + n].tolist()
        for row, (p, n) in enumerate(zip(prompts, [4, 9, 6], strict=True))
    ]
    more = [[51, 52], [61], []]
    second = talk.say(more, [3, 2, 5], True, min_length=9, is_return_log_probs=True)
    assert second["response_input_lengths"].tolist() == [[7 + 2], [9 + 1], [7 + 0]]
    assert second["output_ids"].shape == (3, 1, 9 + 2 + 5)
    assert second["sequence_length"].tolist() == [[11 + 3], [11 + 2], [11 + 5]]
    assert second["output_log_probs"].shape == (3, 1, 5)
    for row, (before, new, count) in enumerate(zip(said, more, [3, 2, 5], strict=True)):
        whole = second["output_ids"][row, 0, : len(before) + len(new) + count].tolist()
        prompt = [1, *before] if row == 1 else before  # the start id of an empty prompt is not shown
        alone = single(talking, prompt + new, count, min_length=9)
        assert whole == alone[row == 1 :]


def test_many_conversations_at_a_time(talking: TritonServer) -> None:
    def converse(number: int) -> list[int]:
        talk = Talk(talking, number + 1000 if number % 2 else f"talk {number}", **SEEDED)
        outputs: ct.Arrays = {}
        for step in range(3):
            outputs = talk.say([[number + 3, step + 5]], 6 + number % 5, step == 2)
        return ids(outputs)

    alone = [converse(number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(converse, range(12))) == alone
    wait_until_nothing_is_kept(talking)


def test_memory_of_the_first_turn_holds_for_all(talking: TritonServer) -> None:
    talk = Talk(talking, 11, memory_len=100)
    prompt = list(range(60, 220))
    said = ids(talk.say([prompt], 8))
    assert 0 < kept_blocks(talking) <= 100 // 16
    talk.more = {"memory_len": 5}  # of later turns does not count
    answer = ids(talk.say(SECOND, 20))
    assert answer == single(talking, said + SECOND[0], 20, memory_len=100)
    assert answer != single(talking, said + SECOND[0], 20)
    assert kept_blocks(talking) <= 100 // 16
    talk.say(THIRD, 1, ends=True)
    wait_until_nothing_is_kept(talking)


def test_blocks_stay_until_the_end(talking: TritonServer) -> None:
    talk = Talk(talking, 5)
    before = talking.observe("gpt2").num_prefix_hit_tokens
    outputs = talk.say([list(range(10, 60))], 4, min_length=4)
    assert kept_blocks(talking) == 4
    said = len(ids(outputs))
    talk.say(SECOND, 3, min_length=3)
    # All but the last token, whose keys and values nobody needed yet.
    assert talking.observe("gpt2").num_prefix_hit_tokens - before == said - 1
    talk.say(THIRD, 1, ends=True)
    wait_until_nothing_is_kept(talking)


def test_turns_that_are_sent_without_waiting_come_one_after_the_other(talking: TritonServer) -> None:
    with ct.open_stream(talking.grpc) as stream:
        for number, prompts in enumerate((FIRST, SECOND, THIRD)):
            flags = {"sequence_start": number == 0, "sequence_end": number == 2}
            stream.send("stream", turn(prompts, 8), sequence_id=77, **flags)
        answers = []
        while len(answers) < 3:
            *_, last = stream.responses()
            answers.append(ids({name: array[0] for name, array in last.items()}))
    said: list[int] = []
    for prompts, answer in zip((FIRST, SECOND, THIRD), answers, strict=True):
        said = single(talking, said + prompts[0], 8)
        assert answer == said


def error(talk: Talk, *arguments: Any, **more: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        talk.say(*arguments, **more)
    return str(caught.value.message())


def test_wrong_turns_leave_the_conversation_as_it_was(talking: TritonServer) -> None:
    talk, neighbour = Talk(talking, 6), Talk(talking, "6")
    said = ids(talk.say(FIRST, 10, session_len=40))
    neighbour.say(SECOND, 3)
    length = len(said)
    expected = (
        f"session_len is 40, but the sequence has {length} tokens, input_ids 5 and request_output_len is"
    )
    assert error(talk, SECOND, 40 - length - 4).startswith(f"{expected} {40 - length - 4}: together 41")
    assert "input_ids has 2 rows; the sequence began with 1" in error(talk, SECOND * 2, 4)
    assert "token id 300" in error(talk, [[300]], 4)
    assert "input_lengths is 9; allowed is [0, 5]" in error(talk, SECOND, 4, input_lengths=np.uint32([[9]]))
    assert "allowed is [1, batch, length]" in error(talk, SECOND, 4, input_ids=np.zeros((0, 5), np.uint32))
    assert "temperature is -1.0" in error(talk, SECOND, 4, temperature=-1.0)
    talk.begun = False
    assert "sequence 6 was started twice" in error(talk, SECOND, 4)
    assert ids(talk.say(SECOND, 40 - length - 5, ends=True)) == single(
        talking, said + SECOND[0], 40 - length - 5
    )
    neighbour.say(THIRD, 1, ends=True)
    wait_until_nothing_is_kept(talking)


@pytest.mark.parametrize("ends", [False, True])
def test_nothing_goes_on_that_has_not_begun(talking: TritonServer, ends: bool) -> None:
    unknown = Talk(talking, 900)
    unknown.begun = True
    assert "START" in error(unknown, FIRST, 4, ends)  # Triton's own words
    failed = Talk(talking, 901)
    assert "at most" in error(failed, FIRST, MAX_POSITIONS)
    assert "sequence 901 is not known: its first request must set START" in error(failed, FIRST, 4, ends)
    again = Talk(talking, 901)
    again.say(FIRST, 4)
    again.say(FIRST, 4, ends=True)
    assert "START" in error(again, FIRST, 4)


def test_a_conversation_outlives_its_engine(talking: TritonServer) -> None:
    talk = Talk(talking, 8, **SEEDED)
    said = ids(talk.say(FIRST, 20))
    os.kill(talking.ranks()[0], signal.SIGKILL)
    # A turn before all of them know of it would be lost.
    restart = "the engine ended and is restarted"
    wait_for(lambda: talking.log.count(restart) >= NUM_MODELS, 60, restart)
    answer = ids(talk.say(SECOND, 9))
    assert answer == single(talking, said + SECOND[0], 9, **SEEDED)
    assert ids(talk.say(THIRD, 2, ends=True)) == single(talking, answer + THIRD[0], 2, **SEEDED)
    wait_until_nothing_is_kept(talking)


def test_a_cancelled_turn_was_not_said(talking: TritonServer) -> None:
    talk = StreamTalk(talking, 9, "stream")
    said = ids(talk.say(FIRST, 5))
    with ct.open_stream(talking.grpc) as stream:
        stream.send("stream", turn(SECOND, LONG, min_length=LONG), sequence_id=9)
        stream.next()
    assert ids(talk.say(THIRD, 6, ends=True)) == single(talking, said + THIRD[0], 6)
    wait_until_nothing_is_kept(talking)
