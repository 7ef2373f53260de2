# SPDX-License-Identifier: BSD-3-Clause
"""How messages lie in the stream of a socket: msgpack behind two lengths, and behind it the arrays.

Arrays can be larger than everything else, and large ones are not copied: they are sent from where they were
computed, and what arrives is read into memory that the message then keeps.
"""

import math
import struct
from array import array
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from .messages import ClientMessage, EngineMessage, Numbers

Message = TypeVar("Message")

_HEADER = struct.Struct("<IQ")
"""Bytes of the message, and of all arrays behind it."""
_ALIGNMENT = 16
"""Of the first array in its frame."""
_CHUNK_BYTES = 1 << 18
"""What is received at once, unless more of a frame is known to come; arrays of fewer bytes are small."""
_NUMBER_BYTES = 4
_NO_NUMBERS = np.zeros(0, np.float32)


class FrameWriter:
    """Makes frames of messages; for one thread at a time."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._pack)
        self._arrays: list[Numbers] = []
        """Of the message that is encoded."""

    def frame(self, message: ClientMessage | EngineMessage) -> Sequence[memoryview]:
        """To be sent part by part in this order. Arrays are contiguous, and must not change before that."""
        head = bytearray(_HEADER.size)
        arrays: list[Numbers] = []
        self._arrays = arrays  # also without those of a message that could not be encoded
        self._encoder.encode_into(message, head, _HEADER.size)
        num_bytes = sum([each.nbytes for each in arrays])
        _HEADER.pack_into(head, 0, len(head) - _HEADER.size, num_bytes)
        if not num_bytes:
            return [memoryview(head)]
        padding = bytes(-len(head) % _ALIGNMENT)
        if num_bytes < _CHUNK_BYTES:
            head += b"".join([padding, *[each.data for each in arrays]])  # bytes are cheaper than parts
            return [memoryview(head)]
        head += padding
        return [memoryview(head), *(each.reshape(-1).view(np.uint8).data for each in arrays if each.size)]

    def _pack(self, value: Any) -> Any:
        if isinstance(value, array):
            return value.tobytes()
        assert value.itemsize == _NUMBER_BYTES, value.dtype
        self._arrays.append(value)
        return value.shape


def _ends(frame: memoryview) -> tuple[int, int, int]:
    """Where a message ends, where its arrays begin, and where they end; all in bytes of its frame."""
    message, arrays = _HEADER.unpack_from(frame)
    end = _HEADER.size + message
    begin = end + (-end % _ALIGNMENT if arrays else 0)
    return end, begin, begin + arrays


def _memory(size: int) -> memoryview:
    """Not zeroed, as a bytearray is. Raises: msgspec.ValidationError: nobody has so much."""
    try:
        return np.empty(size, np.uint8).data
    except (MemoryError, ValueError):
        raise msgspec.ValidationError(f"a frame of {size} bytes does not fit into memory") from None


class FrameReader(Generic[Message]):
    """Cuts a byte stream into messages of one direction: `FrameReader(ClientMessage)`."""

    def __init__(self, message_type: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(
            message_type, dec_hook=self._unpack
        )
        self._chunk = memoryview(bytearray(_CHUNK_BYTES))
        self._begin = 0
        """Where in the chunk the first frame that is not complete begins."""
        self._large: memoryview | None = None
        """Memory of its own of that frame, once its size is known."""
        self._filled = 0
        """Bytes that have arrived, of the one or the other."""
        self._numbers = _NO_NUMBERS
        """Of all arrays of the message that is decoded."""
        self._num_taken = 0

    def room(self) -> memoryview:
        """Where the next bytes of the stream go; not empty."""
        return (self._chunk if self._large is None else self._large)[self._filled :]

    def advance(self, count: int) -> list[Message]:
        """Messages completed by `count` bytes that were written to `room`.

        Raises:
            msgspec.MsgspecError: a frame is not a message of this direction.
        """
        self._filled += count
        if self._large is not None:
            return self._finish(self._large)
        messages: list[Message] = []
        while (size := self._size()) is not None and size <= self._filled - self._begin:
            end = self._begin + size
            messages.append(self._decode(self._chunk[self._begin : end], is_kept=False))
            self._begin = end
        self._make_room(size)
        return messages

    def _size(self) -> int | None:
        """Of the first frame that is not complete, once its header has arrived."""
        if self._filled - self._begin < _HEADER.size:
            return None
        return _ends(self._chunk[self._begin :])[2]

    def _make_room(self, size: int | None) -> None:
        """Moves what has arrived of the next frame to memory of its size, or else to the chunk's begin."""
        rest = bytes(self._chunk[self._begin : self._filled])
        if size is not None:
            self._large = _memory(size)
        target = self._chunk if self._large is None else self._large
        target[: len(rest)] = rest
        self._begin, self._filled = 0, len(rest)

    def _finish(self, frame: memoryview) -> list[Message]:
        """Its message, if it is complete."""
        if self._filled < len(frame):
            return []
        self._large, self._filled = None, 0
        return [self._decode(frame, is_kept=True)]

    def _decode(self, frame: memoryview, is_kept: bool) -> Message:
        """Args: is_kept: nobody else writes to `frame`; otherwise the message gets a copy of its arrays."""
        end, begin, _ = _ends(frame)
        arrays = frame[begin:]
        if len(arrays) % _NUMBER_BYTES:
            raise msgspec.ValidationError(f"arrays have {len(arrays)} bytes, which are no float32")
        self._numbers = np.frombuffer(arrays if is_kept else bytes(arrays), np.float32)
        self._num_taken = 0
        message = self._decoder.decode(frame[_HEADER.size : end])
        if self._num_taken < len(self._numbers):
            raise msgspec.ValidationError("there are numbers that belong to no array")
        self._numbers = _NO_NUMBERS
        return message

    def _unpack(self, kind: type, value: Any) -> Any:
        """What `FrameWriter` has packed. Raises: ValueError: it is something else."""
        if kind is array:
            if not isinstance(value, bytes):
                raise ValueError(f"token ids are packed, and came as {type(value).__name__}")
            return array("q", value)
        begin, size = self._num_taken, math.prod(value)
        if not 0 <= size <= len(self._numbers) - begin:
            raise ValueError(f"there are not the numbers of an array of shape {value}")
        self._num_taken = begin + size
        return self._numbers[begin : begin + size].reshape(value)
