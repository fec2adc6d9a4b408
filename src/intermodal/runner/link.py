"""The runner's two connections to its worker: data (inputs, outputs) and control (recall, cancel, heartbeat)."""

from __future__ import annotations

import socket
import threading

from modal._protocol.errors import ConnectionLost, ProtocolError
from modal._protocol.frames import VERSION_MAX, VERSION_MIN, Frame, FrameBuffer, Kind, pack
from modal._protocol.message import Message, decode
from modal._protocol.messages.wire import Hello

STREAM = 1  # the container's stream, as numbered between runner and worker
READ_SIZE = 1 << 16  # bytes; a larger buffer is mapped and unmapped for each message, which costs more than reading it
LARGE_READ_SIZE = 1 << 18  # bytes, while a large frame comes in


class Link:
    """One connection. Any thread may send; one thread reads."""

    def __init__(self, path: str, role: str, container_id: str = "", resume: bool = False) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self._buffer = FrameBuffer()
        self._lock = threading.Lock()
        hello = Hello(role, VERSION_MIN, VERSION_MAX, "resume" if resume else "", container_id=container_id)
        self.socket.sendall(pack(Kind.HELLO, hello.TYPE, 0, *hello.encode()))

    def welcome(self) -> tuple[Message, list[Frame]]:
        """The worker's greeting (RunnerStart: what this container is to run), and what came right behind it."""
        frames: list[Frame] = []
        while not frames:
            frames = self.read()
        frame = frames[0]
        if frame.kind != Kind.WELCOME:
            raise ProtocolError("the worker did not greet the runner")
        return decode(frame.type, frame.header, frame.body), frames[1:]

    def read(self) -> list[Frame]:
        """Wait for bytes; the frames that they complete, possibly none. Raises ConnectionLost at the end."""
        data = self.socket.recv(LARGE_READ_SIZE if self._buffer.wanted > READ_SIZE else READ_SIZE)
        if not data:
            raise ConnectionLost("the worker closed the connection")
        return self._buffer.feed(data)

    def read_ready(self) -> list[Frame]:
        """The frames that have arrived already. Raises ConnectionLost or OSError where nothing more will come."""
        frames: list[Frame] = []
        while True:
            try:
                data = self.socket.recv(READ_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return frames
            except OSError:
                if frames:
                    return frames  # the next call finds it again
                raise
            if not data:
                if frames:
                    return frames
                raise ConnectionLost("the worker closed the connection")
            frames += self._buffer.feed(data)

    def send(self, message: Message) -> None:
        """One ITEM on the container's stream."""
        self._send(pack(Kind.ITEM, message.TYPE, STREAM, *message.encode()))

    def note(self, message: Message) -> None:
        """One NOTE."""
        self._send(pack(Kind.NOTE, message.TYPE, 0, *message.encode()))

    def _send(self, data: bytes) -> None:
        with self._lock:
            self.socket.sendall(data)

    def close(self) -> None:
        """End the connection."""
        self.socket.close()
