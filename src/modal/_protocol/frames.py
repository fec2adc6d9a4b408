"""Length-prefixed frames: the only thing that ever reaches a socket.

A frame is a 16-byte prefix, a header (a small structured text, see `message`) and a body
(raw bytes, the message's binary fields end to end):

    kind u8 | flags u8 | message type u16 | stream u32 | header length u32 | body length u32

Every length is checked against its bound before anything is allocated for it. docs/wire.md has
the whole protocol.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from modal._protocol.errors import ProtocolError

PREFIX = struct.Struct("!BBHIII")
PREFIX_SIZE = PREFIX.size  # bytes
MAX_HEADER = 1 << 20  # bytes
MAX_BODY = 8 << 20  # bytes; larger values travel as blobs
MAX_GREETING = 1 << 16  # bytes of header, and of body, that a stranger may send

VERSION_MIN = 1
VERSION_MAX = 1


class Kind:
    """What a frame is about. Streams are numbered by their opener: odd by the side that connected."""

    HELLO = 1  # first frame of the connecting side
    WELCOME = 2  # first frame of the accepting side
    REQUEST = 3  # opens a stream; exactly one RESPONSE or FAULT answers it, unless it goes on as a stream
    RESPONSE = 4
    FAULT = 5  # ends a stream with an error; on stream 0 the whole connection
    ITEM = 6  # one message on an open stream, in either direction
    END = 7  # the sender has no more items
    CANCEL = 8  # the opener no longer wants the answer
    CREDIT = 9  # the receiver has consumed items: the sender may send that many bytes more
    PING = 10
    PONG = 11
    NOTE = 12  # a message on stream 0 that asks for no answer

    FIRST, LAST = 1, 12


class Frame(NamedTuple):
    """One frame as it came off the wire; `header` and `body` are not decoded yet."""

    kind: int
    type: int
    stream: int
    header: bytes
    body: bytes


_new_tuple = tuple.__new__  # `Frame(…)` without the cost of a call in Python


def pack_head(kind: int, type: int, stream: int, header: bytes, body_size: int) -> bytes:
    """The bytes of a frame up to its body. Raises ProtocolError where a part is longer than its bound."""
    if len(header) > MAX_HEADER or body_size > MAX_BODY:
        raise ProtocolError(
            f"a message of {len(header)} + {body_size} bytes is larger than a frame may be ({MAX_HEADER} + {MAX_BODY})"
        )
    return PREFIX.pack(kind, 0, type, stream, len(header), body_size) + header


def pack(kind: int, type: int, stream: int, header: bytes = b"", body: bytes = b"") -> bytes:
    """The bytes of one frame. Raises ProtocolError where a part is longer than its bound."""
    if body:
        return pack_head(kind, type, stream, header, len(body)) + body
    return pack_head(kind, type, stream, header, 0)


class FrameBuffer:
    """Cuts a stream of bytes into frames, whatever the chunks it comes in.

    Holds at most one unfinished frame: memory is bounded by the frame limits plus one chunk.
    """

    __slots__ = ("_limit_body", "_limit_header", "_need", "_rest")

    def __init__(self, *, greeting: bool = False) -> None:
        """`greeting`: the peer is a stranger yet; see `greeted`."""
        self._rest = bytearray()  # of an unfinished frame
        self._need = PREFIX_SIZE  # bytes of `_rest` before anything more is known
        self._limit_header = MAX_GREETING if greeting else MAX_HEADER
        self._limit_body = MAX_GREETING if greeting else MAX_BODY

    def greeted(self) -> None:
        """From now on frames may be as large as frames may be."""
        self._limit_header = MAX_HEADER
        self._limit_body = MAX_BODY

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they arrived; return the frames that they complete. Raises ProtocolError."""
        frames: list[Frame] = []
        at = self._complete(data, frames) if self._rest else 0
        end = len(data)
        unpack_from = PREFIX.unpack_from
        limit_header, limit_body = self._limit_header, self._limit_body
        while True:
            body_at = at + PREFIX_SIZE
            if body_at > end:
                break
            kind, flags, type_, stream, header_size, body_size = unpack_from(data, at)
            if not 1 <= kind <= 12 or flags or header_size > limit_header or body_size > limit_body:
                self._refuse(kind, flags, header_size, body_size)
            header_at = body_at
            body_at += header_size
            next_at = body_at + body_size
            if next_at > end:
                self._need = next_at - at
                break
            frames.append(_new_tuple(Frame, (kind, type_, stream, data[header_at:body_at], data[body_at:next_at])))
            at = next_at
        if at < end:
            self._rest += memoryview(data)[at:]
        return frames

    def _complete(self, data: bytes, frames: list[Frame]) -> int:
        """Finish the unfinished frame, if `data` does; returns how many bytes that took."""
        rest = self._rest
        at = 0
        while len(rest) < self._need:
            missing = self._need - len(rest)
            if len(data) - at < missing:
                rest += memoryview(data)[at:]
                return len(data)
            rest += memoryview(data)[at : at + missing]
            at += missing
            if self._need == PREFIX_SIZE:  # only now it is known how long the frame is
                kind, flags, _type, _stream, header_size, body_size = PREFIX.unpack_from(rest)
                if not 1 <= kind <= 12 or flags or header_size > self._limit_header or body_size > self._limit_body:
                    self._refuse(kind, flags, header_size, body_size)
                self._need += header_size + body_size
        kind, _flags, type_, stream, header_size, _body_size = PREFIX.unpack_from(rest)
        body_at = PREFIX_SIZE + header_size
        with memoryview(rest) as view:
            frames.append(Frame(kind, type_, stream, bytes(view[PREFIX_SIZE:body_at]), bytes(view[body_at:])))
        self._rest = bytearray()
        self._need = PREFIX_SIZE
        return at

    def _refuse(self, kind: int, flags: int, header_size: int, body_size: int) -> None:
        if not Kind.FIRST <= kind <= Kind.LAST:
            raise ProtocolError(f"unknown frame kind {kind}: is this an Intermodal peer of the same version?")
        if flags:
            raise ProtocolError(f"unknown frame flags {flags:#x}")
        raise ProtocolError(
            f"a frame of {header_size} + {body_size} bytes is over the limit "
            f"({self._limit_header} + {self._limit_body})"
        )

    @property
    def wanted(self) -> int:
        """How many bytes are known to be missing from an unfinished frame."""
        return self._need - len(self._rest)

    @property
    def empty(self) -> bool:
        """Whether the stream so far ended at a frame's edge."""
        return not self._rest
