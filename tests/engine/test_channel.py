# SPDX-License-Identifier: BSD-3-Clause
"""The engine's end of the socket, without an engine: what every client hears, small and large."""

import contextlib
import itertools
import os
import resource
import socket
import threading
import time

import numpy as np
import pytest

from fastertransformer.engine.channel import Channel
from fastertransformer.messages import (
    Abort,
    EncodeRequest,
    EngineInfo,
    EngineStats,
    FinishReason,
    Output,
    Submit,
    token_ids,
)
from fastertransformer.server.client import EngineClient

INFO = EngineInfo(model_type="none", vocab_size=9, max_model_len=9, start_id=0, end_ids=(), plan="")
STATS = EngineStats()


@pytest.fixture
def channel(tmp_path):
    channel = Channel(str(tmp_path / "socket"), INFO, first_client_seconds=60)
    yield channel
    channel.close()


@pytest.fixture
def clients(channel, tmp_path):
    """Three that connect one after the other."""
    found: list[EngineClient] = []
    connecting = threading.Thread(
        target=lambda: found.extend(EngineClient(tmp_path / "socket") for _ in range(3))
    )
    connecting.start()
    while connecting.is_alive():
        channel.receive(0.01)
    yield found
    for client in found:
        client.close()


def test_every_client_is_greeted(clients):
    assert [client.info for client in clients] == [INFO] * 3


def test_requests_come_with_who_sent_them(channel, clients):
    request = EncodeRequest(id=5, tokens=token_ids((1, 2)), outputs=("embedding",))
    clients[1].submit([request])
    assert channel.receive(60) == [(1, Submit([request]))]


def test_many_inputs_come_in_frames_of_a_step(channel, clients):
    lengths = [9000, 7000, 300, 85, 20_000, 1, 1]
    requests = [
        EncodeRequest(id=number, tokens=token_ids(range(length)), outputs=("embedding",))
        for number, length in enumerate(lengths)
    ]
    sending = threading.Thread(target=clients[0].submit, args=(requests,))
    sending.start()
    came: list[Submit] = []
    while sending.is_alive() or sum(len(message.requests) for message in came) < len(requests):
        came += [message for _, message in channel.receive(5)]
    assert [[request.id for request in message.requests] for message in came] == [[0, 1, 2], [3], [4], [5, 6]]
    assert [request for message in came for request in message.requests] == requests


def test_an_answer_larger_than_the_socket_takes_arrives_whole_and_before_the_next(channel, clients):
    numbers = np.arange(3 << 20, dtype=np.float32).reshape(3, -1)
    arrays = {"last": numbers[1:], "none": numbers[:0], "one": numbers[0, 0].reshape(())}
    large = Output(1, finish_reason=FinishReason.ENCODED, arrays=arrays)
    channel.send([(0, large), (2, Output(7, (4,)))], STATS)
    channel.send([(0, Output(2, (3,)))], STATS)
    came: list[Output] = []

    def read() -> None:
        for message in clients[0].outputs():
            came.extend(message.outputs)
            if len(came) == 2:
                return

    reading = threading.Thread(target=read)
    reading.start()
    while reading.is_alive():
        channel.receive(0.01)
    assert came[0].arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert came[0].arrays[name].shape == array.shape
        np.testing.assert_array_equal(came[0].arrays[name], array)
    assert came[1] == Output(2, (3,))
    assert next(clients[2].outputs()).outputs == [Output(7, (4,))]


def test_who_waits_for_nothing_hears_how_the_engine_is(channel, clients, monkeypatch):
    """Now and then while it works for others, and at once when it has done."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for seconds, running in ((0.0, 1), (0.2, 2), (0.7, 3), (0.8, 3), (0.9, 0)):
        now = 100.0 + seconds
        channel.send([(0, Output(1, (4,)))], EngineStats(num_running=running))
    busy, idle = clients[0].outputs(), clients[1].outputs()
    assert [next(busy).stats.num_running for _ in range(5)] == [1, 2, 3, 3, 0]
    heard = [next(idle) for _ in range(3)]
    assert [message.stats.num_running for message in heard] == [1, 3, 0]
    assert not any(message.outputs for message in heard)


def test_who_comes_while_descriptors_are_short_is_accepted_later(
    channel, clients, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("fastertransformer.engine.channel.ACCEPT_PAUSE_S", 0.3)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    late = socket.socket(socket.AF_UNIX)
    with contextlib.closing(late):
        late.connect(str(tmp_path / "socket"))
        late.setblocking(False)
        next_descriptor = os.dup(late.fileno())
        os.close(next_descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_descriptor, limits[1]))
        try:
            assert channel.receive(60) == []
            clients[1].abort([3])
            assert channel.receive(60) == [(1, Abort([3]))]
            begin = time.process_time()
            # Until the end of the pause, then of the next one.
            assert channel.receive(None) == []
            assert channel.receive(None) == []
            assert time.process_time() - begin < 0.1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert "a client waits" in caplog.text
        while not late_is_greeted(late):
            channel.receive(0.5)


def late_is_greeted(late: socket.socket) -> bool:
    try:
        return len(late.recv(1)) == 1
    except BlockingIOError:
        return False


def test_a_client_that_reads_less_than_it_is_sent_is_dropped(channel, tmp_path, monkeypatch):
    """The others are told what they wait for."""
    monkeypatch.setattr("fastertransformer.engine.channel.MAX_UNSENT_BYTES", 1 << 20)
    monkeypatch.setattr("fastertransformer.engine.channel.MOST_UNSENT_BYTES", 8 << 20)
    slow, other = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with contextlib.closing(slow), contextlib.closing(other):
        for connection in (slow, other):
            connection.connect(str(tmp_path / "socket"))
            channel.receive(60)
        answer = Output(1, finish_reason=FinishReason.ENCODED, arrays={"one": np.zeros(1 << 18, np.float32)})
        came: list[object] = []
        for _ in range(20):
            channel.send([(0, answer), (1, Output(2, (3,)))], STATS)
            slow.recv(1 << 16)
            came += channel.receive(0)
        assert came == [(0, None)]
        assert len(other.recv(1 << 20)) > 20 * 30


@pytest.mark.parametrize(("patience", "rest", "spins"), [(0.03, 0.01, 5), (0.01, 0, 2), (0, 0, 0)])
def test_a_wait_spins_before_it_sleeps(tmp_path, monkeypatch, patience, rest, spins):
    """By a clock that only looks at it advance: by a little less than 4 ms."""
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: next(clock) / 256)
    channel = Channel(str(tmp_path / "socket"), INFO, spin_seconds=0.02)
    with contextlib.closing(channel):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(tmp_path / "socket"))
        channel.receive(60)
        asked: list[float | None] = []
        select = channel._selector.select
        monkeypatch.setattr(channel._selector, "select", lambda wait: asked.append(wait) or select(wait))
        assert channel.receive(patience) == []
        assert asked == [*[0] * spins, pytest.approx(rest)]
        asked.clear()
        client.close()
        assert channel.receive(patience) == [(0, None)]
        assert asked == [0]
