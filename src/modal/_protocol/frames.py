"""Length-prefixed frames: the only thing that ever reaches a socket.

A frame is a 16-byte prefix, a header (a small structured text, see `message`) and a body
(raw bytes, the message's binary fields end to end):

    kind u8 | flags u8 | message type u16 | stream u32 | header length u32 | body length u32

Every length is checked against its bound before anything is allocated for it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from modal._protocol.errors import ProtocolError

PREFIX = struct.Struct("!BBHIII")
PREFIX_SIZE = PREFIX.size  # bytes
MAX_HEADER = 1 << 20  # bytes
MAX_BODY = 8 << 20  # bytes; larger values travel as blobs

VERSION_MIN = 1
VERSION_MAX = 1


class Kind:
    """What a frame is about. Streams are numbered by their opener: odd by the side that connected."""

    HELLO = 1  # first frame of the connecting side
    WELCOME = 2  # first frame of the accepting side
    REQUEST = 3  # opens a stream; exactly one RESPONSE or FAULT answers it, unless it goes on as a stream
    RESPONSE = 4
    FAULT = 5  # ends a stream with an error
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


def pack(kind: int, type: int, stream: int, header: bytes = b"", body: bytes = b"") -> bytes:
    """The bytes of one frame. Raises ProtocolError where a part is longer than its bound."""
    if len(header) > MAX_HEADER or len(body) > MAX_BODY:
        raise ProtocolError(
            f"a message of {len(header)} + {len(body)} bytes is larger than a frame may be "
            f"({MAX_HEADER} + {MAX_BODY})"
        )
    return PREFIX.pack(kind, 0, type, stream, len(header), len(body)) + header + body


def check_prefix(kind: int, flags: int, header_size: int, body_size: int) -> None:
    """Raise ProtocolError unless a prefix with these fields may be followed."""
    if not Kind.FIRST <= kind <= Kind.LAST:
        raise ProtocolError(f"unknown frame kind {kind}: is this an Intermodal peer of the same version?")
    if flags:
        raise ProtocolError(f"unknown frame flags {flags:#x}")
    if header_size > MAX_HEADER or body_size > MAX_BODY:
        raise ProtocolError(f"a frame of {header_size} + {body_size} bytes is over the limit")


class FrameBuffer:
    """Cuts a stream of bytes into frames, whatever the chunks it comes in.

    Holds at most one unfinished frame: memory is bounded by the frame limits plus one chunk.
    """

    __slots__ = ("_chunks", "_have", "_need")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._have = 0  # bytes in `_chunks`
        self._need = PREFIX_SIZE  # bytes before anything more can be cut

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they arrived; return the frames that they complete. Raises ProtocolError."""
        if self._have:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._have = 0
        frames: list[Frame] = []
        at, end = 0, len(data)
        unpack_from = PREFIX.unpack_from
        while end - at >= PREFIX_SIZE:
            kind, flags, type_, stream, header_size, body_size = unpack_from(data, at)
            check_prefix(kind, flags, header_size, body_size)
            header_at = at + PREFIX_SIZE
            body_at = header_at + header_size
            next_at = body_at + body_size
            if next_at > end:
                self._need = next_at - at
                break
            frames.append(Frame(kind, type_, stream, data[header_at:body_at], data[body_at:next_at]))
            at = next_at
        else:
            self._need = PREFIX_SIZE
        if at < end:
            rest = data[at:] if at else data
            self._chunks.append(rest)
            self._have = len(rest)
        return frames

    @property
    def empty(self) -> bool:
        """Whether the stream so far ended at a frame's edge."""
        return not self._have
