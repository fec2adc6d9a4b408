"""A client of HTTP/2 that shows what it sees, frame by frame."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from tests.integration.gateway.conftest import HOST, Rig


@dataclass
class Answer:
    """What has come of one response."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    informational: list[int] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    size: int = 0

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)


class H2Client:
    """`greedy`: the server gets new windows for what has come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greedy: bool = True) -> None:
        self.reader, self.writer, self.greedy = reader, writer, greedy
        # What a proper client would refuse to send is sent.
        self.wire = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="latin-1",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        encoder = self.wire.encoder
        encoder.encode = partial(encoder.encode, huffman=False)  # type: ignore[method-assign]  # seconds for long values
        self.answers: dict[int, Answer] = {}
        self.goodbye: ConnectionTerminated | None = None
        self.wire.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.wire.data_to_send())

    def begin(self, method: str = "GET", path: str = "/", *headers: tuple[str, str], end: bool = True) -> int:
        number: int = self.wire.get_next_available_stream_id()
        own = [header for header in headers if header[0][:1] == ":"]
        head = [(":method", method), (":scheme", "http"), (":authority", HOST), (":path", path), *own]
        head += [header for header in headers if header[0][:1] != ":"]
        self.wire.send_headers(number, head, end_stream=end)
        self.answers[number] = Answer()
        self.flush()
        return number

    def send(self, number: int, data: bytes, end: bool = False) -> None:
        self.wire.send_data(number, data, end_stream=end)
        self.flush()

    async def turn(self) -> bool:
        """Take what comes; False at the end of the connection."""
        data = await asyncio.wait_for(self.reader.read(1 << 16), 200)
        if not data:
            return False
        for event in self.wire.receive_data(data):
            self._take(event)
        self.flush()
        return True

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goodbye = event
        answer = self.answers.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return
        if isinstance(event, ResponseReceived):
            answer.headers = dict(event.headers)
            answer.status = int(answer.headers[":status"])
        elif isinstance(event, InformationalResponseReceived):
            answer.informational.append(int(dict(event.headers)[":status"]))
        elif isinstance(event, DataReceived):
            answer.size += len(event.data)
            answer.parts.append(event.data)
            if self.greedy:
                self.wire.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, StreamEnded):
            answer.ended = True
        elif isinstance(event, StreamReset):
            answer.reset = int(event.error_code)

    async def until(self, done: Any) -> None:
        while not done():
            assert await self.turn(), "the connection ended before"

    async def answer(self, number: int) -> Answer:
        """The whole of it, or what came of it until it was reset."""
        answer = self.answers[number]
        await self.until(lambda: answer.ended or answer.reset is not None)
        return answer

    async def get(self, path: str = "/", *headers: tuple[str, str], method: str = "GET") -> Answer:
        return await self.answer(self.begin(method, path, *headers))

    async def end_of_connection(self) -> ConnectionTerminated | None:
        """The GOAWAY, once the server has closed."""
        try:
            while await self.turn():
                pass
        except ConnectionError:
            pass
        return self.goodbye

    async def upload(self, number: int, size: int) -> None:
        """Send so much, as the windows allow."""
        while size:
            room = min(size, self.wire.local_flow_control_window(number), self.wire.max_outbound_frame_size)
            if not room:
                assert await self.turn()
                continue
            size -= room
            self.send(number, b"x" * room, end=not size)
            await self.writer.drain()

    def close(self) -> None:
        self.writer.close()


async def open_h2(rig: Rig, greedy: bool = True) -> H2Client:
    """With the server's settings known."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    client = H2Client(reader, writer, greedy)
    await client.until(lambda: client.wire.remote_settings.initial_window_size > 65535)
    return client


class H2Line:
    """A stream for another protocol, with the methods of a reader and a writer."""

    def __init__(self, client: H2Client, number: int) -> None:
        self.client, self.number = client, number
        self.answer = client.answers[number]
        self._unsent = b""
        self._ending = False

    def write(self, data: bytes) -> None:
        """Sent as the windows allow, while somebody reads."""
        self._unsent += data
        self._push()

    def _push(self) -> None:
        wire = self.client.wire
        while self._unsent and not self.answer.ended and self.answer.reset is None:
            room = min(len(self._unsent), wire.local_flow_control_window(self.number), wire.max_outbound_frame_size)
            if not room:
                return
            self.client.send(self.number, self._unsent[:room])
            self._unsent = self._unsent[room:]
        if self._ending and not self._unsent:
            self._ending = False
            self.client.send(self.number, b"", end=True)

    def end(self) -> None:
        """The end of the stream, behind what was written."""
        self._ending = True
        self._push()

    async def read(self, _size: int = 0) -> bytes:
        """What has come; nothing at the end of the stream, or when it was reset."""
        while not self.answer.parts:
            if self.answer.ended or self.answer.reset is not None:
                return b""
            if not await self.client.turn():
                return b""
            self._push()
        data, self.answer.parts = self.answer.body, []
        return data

    def close(self) -> None:
        """The whole connection."""
        self.client.close()


async def open_line(client: H2Client, path: str, *headers: tuple[str, str], version: str = "13") -> H2Line:
    """Ask for a WebSocket (RFC 8441), and return with the answer."""
    assert client.wire.remote_settings.enable_connect_protocol == 1
    more = (("sec-websocket-version", version), *headers)
    number = client.begin("CONNECT", path, (":protocol", "websocket"), *more, end=False)
    answer = client.answers[number]
    await client.until(lambda: answer.status)
    if answer.status != 200:
        await client.until(lambda: answer.reset is not None)
    return H2Line(client, number)
