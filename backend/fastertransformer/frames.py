# SPDX-License-Identifier: BSD-3-Clause
"""How messages lie in the stream of a socket: length-prefixed msgpack."""

from array import array
from typing import Any, Generic, TypeVar

import msgspec

from .messages import ClientMessage, EngineMessage

Message = TypeVar("Message")

HEADER_BYTES = 4


def _pack(value: Any) -> bytes:
    """Token ids, which msgpack does not know."""
    assert isinstance(value, array), value
    return value.tobytes()


def _unpack(kind: type, value: Any) -> Any:
    """Raises: TypeError, ValueError: it is nothing that `_pack` has packed."""
    assert kind is array, kind
    if not isinstance(value, bytes):
        raise TypeError(f"token ids came as {type(value).__name__}; they are packed")
    return array("q", value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_pack)


def encode_frame(message: ClientMessage | EngineMessage) -> bytearray:
    """Length-prefixed msgpack frame of one message."""
    frame = bytearray(HEADER_BYTES)
    _encoder.encode_into(message, frame, HEADER_BYTES)
    frame[:HEADER_BYTES] = (len(frame) - HEADER_BYTES).to_bytes(HEADER_BYTES, "little")
    return frame


class FrameReader(Generic[Message]):
    """Cuts a byte stream into messages of one direction: `FrameReader(ClientMessage)`."""

    def __init__(self, message_type: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(
            message_type, dec_hook=_unpack
        )
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Messages completed by `data`; the rest waits for more bytes.

        Raises:
            msgspec.MsgspecError: a frame is not a message of this direction.
        """
        self._buffer += data
        messages: list[Message] = []
        while len(self._buffer) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(self._buffer[:HEADER_BYTES], "little")
            if len(self._buffer) < end:
                break
            with memoryview(self._buffer) as buffer, buffer[HEADER_BYTES:end] as payload:
                messages.append(self._decoder.decode(payload))
            del self._buffer[:end]
        return messages
