# SPDX-License-Identifier: BSD-3-Clause
"""Messages come out of a stream as they went in, however it is cut."""

import msgspec
import numpy as np
import pytest

from fastertransformer.frames import FrameReader, FrameWriter
from fastertransformer.messages import (
    Abort,
    ClientMessage,
    EncodeRequest,
    Request,
    SamplingParams,
    Submit,
    token_ids,
)

SAMPLING = SamplingParams(max_tokens=3)
HIDDEN = np.arange(90_000, dtype=np.float32).reshape(300, 300)
"""Large."""


def messages() -> list[ClientMessage]:
    """Small ones, one of a large prompt, and arrays of all sizes."""
    prompt = token_ids(range(-7, 70_000))
    encoded = [
        EncodeRequest(id=1, hidden_states=HIDDEN, outputs=("embedding",)),
        EncodeRequest(id=2, hidden_states=HIDDEN[3:5], outputs=()),
        EncodeRequest(id=3, hidden_states=HIDDEN[:0], outputs=()),
        EncodeRequest(id=4, tokens=token_ids((2**62, -1)), outputs=("embedding",)),
    ]
    return [
        Submit([Request(1, token_ids((5, 2**63 - 1)), SAMPLING), Request(2, token_ids(), SAMPLING)]),
        Submit([Request(3, prompt, SAMPLING, encoder_tokens=token_ids((1, 2)))]),
        Submit(encoded),
        Abort([1, 2]),
        Submit(encoded[1:]),
        Abort([]),
    ]


def stream_of(sent: list[ClientMessage]) -> bytes:
    writer = FrameWriter()
    return b"".join(part for message in sent for part in writer.frame(message))


def read(stream: bytes, piece: int) -> list[ClientMessage]:
    """What a reader makes of pieces of at most so many bytes."""
    reader: FrameReader[ClientMessage] = FrameReader(ClientMessage)
    found: list[ClientMessage] = []
    rest = memoryview(stream)
    while rest:
        room = reader.room()
        count = min(piece, len(room), len(rest))
        room[:count], rest = rest[:count], rest[count:]
        found += reader.advance(count)
    return found


def assert_same(came: ClientMessage, sent: ClientMessage) -> None:
    if not isinstance(sent, Submit):
        assert came == sent
        return
    for one, other in zip(came.requests, sent.requests, strict=True):
        hidden = getattr(other, "hidden_states", None)
        if hidden is None:
            assert one == other
        else:
            assert (one.id, one.outputs) == (other.id, other.outputs)
            assert one.hidden_states.shape == hidden.shape
            np.testing.assert_array_equal(one.hidden_states, hidden)


@pytest.mark.parametrize("piece", [1, 7, 11, 12, 13, 1000, 1 << 16, 1 << 30])
def test_however_the_stream_is_cut(piece):
    sent = messages()
    came = read(stream_of(sent), piece)
    assert len(came) == len(sent)
    for pair in zip(came, sent, strict=True):
        assert_same(*pair)


def test_arrays_stay_what_they_were_when_more_comes():
    small = Submit([EncodeRequest(id=1, hidden_states=HIDDEN[5, :9], outputs=())])
    first, *_ = read(stream_of([small, *messages()]), 1 << 10)
    np.testing.assert_array_equal(first.requests[0].hidden_states, HIDDEN[5, :9])


def test_large_arrays_are_sent_from_where_they_are():
    parts = FrameWriter().frame(Submit([EncodeRequest(id=1, hidden_states=HIDDEN, outputs=())]))
    assert len(parts) == 2
    assert np.shares_memory(np.frombuffer(parts[1], np.float32), HIDDEN)


def test_what_arrives_is_aligned():
    for message in read(stream_of(messages()), 1 << 16):
        if isinstance(message, Submit):
            arrays = [getattr(request, "hidden_states", None) for request in message.requests]
            assert all(array is None or array.flags.aligned for array in arrays)


@pytest.mark.parametrize(
    "broken",
    [
        b"\xc1",  # no msgpack
        msgspec.msgpack.encode({"type": "Submit", "requests": [{"type": "Request", "id": 1, "prompt": [1]}]}),
        msgspec.msgpack.encode(
            {
                "type": "Submit",
                "requests": [{"type": "EncodeRequest", "id": 1, "outputs": [], "hidden_states": [2, 3]}],
            }
        ),
    ],
)
def test_what_is_no_message_is_an_error(broken):
    frame = len(broken).to_bytes(4, "little") + bytes(8) + broken
    with pytest.raises(msgspec.MsgspecError):
        read(frame, 1 << 16)


def test_arrays_of_nobody_are_an_error():
    (frame,) = FrameWriter().frame(Abort([1]))
    stream = bytearray(frame)
    stream[4:12] = (16).to_bytes(8, "little")
    with pytest.raises(msgspec.ValidationError, match="belong to no array"):
        read(bytes(stream) + bytes(-len(stream) % 16 + 16), 1 << 16)


@pytest.mark.parametrize("size", [1 << 55, (1 << 64) - 1])
def test_a_frame_that_nobody_could_hold_is_an_error(size):
    with pytest.raises(msgspec.ValidationError, match="does not fit into memory"):
        read(bytes(4) + size.to_bytes(8, "little"), 1 << 16)


def test_a_message_that_cannot_be_encoded_leaves_nothing_behind():
    writer = FrameWriter()
    lost = [EncodeRequest(id=number, hidden_states=HIDDEN[:2], outputs=()) for number in (1, 2**64)]
    with pytest.raises(OverflowError):
        writer.frame(Submit(lost))
    follows = Abort([1, 2])
    assert read(b"".join(writer.frame(follows)), 1 << 20) == [follows]
