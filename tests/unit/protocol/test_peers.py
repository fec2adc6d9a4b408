"""Two connected peers that do anything in any order over a wire that delivers in any pieces.

What arrives is what was sent, in order; when everything is over nothing is kept.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from modal._protocol.aio import Connection, Handlers, Stream
from modal._protocol.errors import Code, Fault
from modal._protocol.frames import Frame, Kind, pack
from modal._protocol.message import Message
from modal._protocol.messages.call import BlobChunk, BlobGet, BlobPut, Invoke, Outputs
from modal._protocol.messages.wire import Done, Welcome
from tests.unit.protocol.wires import HELLO, MemoryTransport


class Half:
    """One side of a stream: what it sent, what it got, how it ended."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.sent: list[bytes] = []
        self.got: list[bytes] = []
        self.ended = False
        self.error: Exception | None = None
        self.raw = False
        self.task: asyncio.Task[None] | None = None

    def attach(self, stream: Stream, raw: bool) -> None:
        self.stream, self.raw = stream, raw
        if raw:
            for frame in stream.take_queued():
                self.take(frame)
            stream.raw = self.take
            stream.on_end = self.over
            if stream.is_ended:
                self.over(None)
        else:
            self.task = asyncio.get_running_loop().create_task(self.receive())

    def take(self, frame: Frame) -> None:
        assert not self.ended
        self.got.append(BlobChunk.decode(frame.header, frame.body).data)

    def over(self, error: Exception | None) -> None:
        assert not self.ended
        self.ended, self.error = True, error

    async def receive(self) -> None:
        assert self.stream is not None
        try:
            async for item in self.stream:
                assert isinstance(item, BlobChunk)
                self.got.append(item.data)
            self.over(None)
        except Fault as fault:
            self.over(fault)


class Pair:
    """A stream as the model knows it."""

    def __init__(self, name: str, raw: bool) -> None:
        self.name = name
        self.answering_raw = raw
        self.opening = Half()
        self.answering = Half()
        self.release: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.broken = False  # cancelled or failed: what was under way may be lost


class Peers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.defects: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _loop, context: self.defects.append(context))
        self.pairs: dict[str, Pair] = {}
        self.requests: list[tuple[asyncio.Future[Any], bytes]] = []
        self.later: list[tuple[Connection, int, bytes]] = []
        self.count = 0

    def run(self, action: Any) -> Any:
        async def wrapped() -> Any:
            result = action()
            for _ in range(4):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(wrapped())

    @initialize()
    def meet(self) -> None:
        def action() -> None:
            handlers = self.handlers()
            self.sides = [
                Connection(handlers, accepting=False),
                Connection(handlers, accepting=True, greet=lambda _connection, _hello: Welcome(1)),
            ]
            self.wires = [MemoryTransport(side) for side in self.sides]
            for side, wire in zip(self.sides, self.wires, strict=True):
                side.connection_made(wire)
            self.sides[0].write(pack(Kind.HELLO, HELLO.TYPE, 0, *HELLO.encode()))

        self.run(action)
        self.settle()
        assert all(side.greeted.done() for side in self.sides)

    def handlers(self) -> Handlers:
        handlers = Handlers()

        @handlers.fast(Invoke)
        def invoke(connection: Connection, stream_id: int, message: Invoke) -> None:
            if message.blob == "later":
                self.later.append((connection, stream_id, message.args))
            else:
                connection.respond(stream_id, Outputs([0], [0], [message.args]))

        @handlers.unary(BlobChunk)
        async def echo(connection: Connection, message: BlobChunk) -> BlobChunk:
            await asyncio.sleep(0)
            if not message.data:
                raise Fault(Code.INVALID, "nothing to echo")
            return message

        @handlers.stream(BlobPut)
        async def stream(connection: Connection, message: BlobPut, stream: Stream) -> Message | None:
            pair = self.pairs[message.blob_id]
            pair.answering.attach(stream, pair.answering_raw)
            if pair.answering_raw and message.size:
                return None  # it goes on without its handler
            answer: Message | None = await pair.release
            return answer

        return handlers

    # -- what may happen
    @rule(side=st.integers(0, 1), raw=st.booleans(), opener_raw=st.booleans(), detached=st.booleans())
    def open(self, side: int, raw: bool, opener_raw: bool, detached: bool) -> None:
        self.count += 1
        name = f"vl-{self.count}"

        def action() -> None:
            pair = self.pairs[name] = Pair(name, raw)
            pair.opening.attach(self.sides[side].open(BlobPut(name, int(detached))), opener_raw)

        self.run(action)

    @rule(data=st.data(), opening=st.booleans(), size=st.sampled_from([0, 1, 50, 70_000, 300_000]))
    @precondition(lambda self: self.pairs)
    def send(self, data: st.DataObject, opening: bool, size: int) -> None:
        pair = self.pairs[data.draw(st.sampled_from(sorted(self.pairs)))]
        half = pair.opening if opening else pair.answering
        stream = half.stream
        if stream is None or stream._sent_end or stream.connection.closed:
            return
        content = bytes([len(half.sent) % 256]) + b"x" * size
        half.sent.append(content)
        self.run(lambda: stream.send_now(BlobChunk(content)))

    @rule(data=st.data(), opening=st.booleans())
    @precondition(lambda self: self.pairs)
    def end(self, data: st.DataObject, opening: bool) -> None:
        pair = self.pairs[data.draw(st.sampled_from(sorted(self.pairs)))]
        stream = (pair.opening if opening else pair.answering).stream
        if stream is not None:
            self.run(stream.end)

    @rule(data=st.data(), how=st.sampled_from(["none", "message", "fault"]))
    @precondition(lambda self: self.pairs)
    def answer(self, data: st.DataObject, how: str) -> None:
        pair = self.pairs[data.draw(st.sampled_from(sorted(self.pairs)))]
        if pair.release.done():
            return
        if how == "fault":
            pair.broken = True
            self.run(lambda: pair.release.set_exception(Fault(Code.EXECUTION, "failed")))
        else:
            if not pair.answering_raw or how == "message":
                pair.broken = True  # items that come after the handler returned are nobody's
            self.run(lambda: pair.release.set_result(None if how == "none" else Done()))

    @rule(data=st.data())
    @precondition(lambda self: self.pairs)
    def cancel(self, data: st.DataObject) -> None:
        pair = self.pairs[data.draw(st.sampled_from(sorted(self.pairs)))]
        pair.broken = True
        stream = pair.opening.stream
        assert stream is not None
        self.run(stream.cancel)

    @rule(side=st.integers(0, 1), content=st.binary(max_size=20), fast=st.booleans(), late=st.booleans())
    def request(self, side: int, content: bytes, fast: bool, late: bool) -> None:
        connection = self.sides[side]

        async def ask() -> bytes:
            if fast:
                blob = "later" if late else ""
                return (await connection.request(Invoke("fc", "fu", content, blob), Outputs)).values[0]
            return (await connection.request(BlobChunk(content), BlobChunk)).data

        self.run(lambda: self.requests.append((asyncio.ensure_future(ask()), content)))

    @rule(data=st.data())
    @precondition(lambda self: self.later)
    def respond(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.later) - 1))
        connection, stream_id, content = self.later.pop(number)
        self.run(lambda: connection.respond(stream_id, Outputs([0], [0], [content])))

    @rule(data=st.data())
    @precondition(lambda self: self.requests)
    def give_up(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.requests) - 1))
        future, _content = self.requests.pop(number)
        if future.done() and not future.cancelled():
            future.exception()
        self.run(future.cancel)

    @rule(side=st.integers(0, 1), size=st.integers(1, 500) | st.integers(1, 1 << 20))
    def deliver(self, side: int, size: int) -> None:
        data = self.wires[side].taken(size)
        if data:
            self.run(lambda: self.sides[1 - side].data_received(data))

    @rule()
    def settle(self) -> None:
        """Everything arrives."""
        quiet = 0
        while quiet < 3:
            moved = False
            for side in (0, 1):
                data = self.wires[side].taken()
                if data:
                    moved = True
                    self.run(lambda side=side, data=data: self.sides[1 - side].data_received(data))  # type: ignore[misc]
                else:
                    self.run(lambda: None)
            quiet = 0 if moved else quiet + 1

    # -- what must hold
    @invariant()
    def nothing_is_torn_or_invented(self) -> None:
        assert not self.defects, self.defects
        for pair in self.pairs.values():
            assert pair.answering.got == pair.opening.sent[: len(pair.answering.got)]
            assert pair.opening.got == pair.answering.sent[: len(pair.opening.got)]
        assert not any(side.closed for side in getattr(self, "sides", []))

    def teardown(self) -> None:
        if hasattr(self, "sides"):
            self.settle()
            for pair in self.pairs.values():
                if not pair.broken:
                    assert pair.answering.got == pair.opening.sent
                    assert pair.opening.got == pair.answering.sent
            self.everything_ends()
            for future, content in self.requests:
                assert future.done()
                assert (
                    (future.exception() is not None)
                    if not content and not future_ok(future)
                    else future.result() == content
                )
            for side in self.sides:
                assert not side._streams
                assert not side._tasks
                assert not side._waiting
                assert not side._fast
                assert side.held == 0
            self.run(lambda: [side.connection_lost(None) for side in self.sides])
            assert not self.defects, self.defects
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.run(lambda: None)
        self.loop.close()

    def everything_ends(self) -> None:
        while self.later:
            connection, stream_id, content = self.later.pop()
            self.run(lambda c=connection, i=stream_id, b=content: c.respond(i, Outputs([0], [0], [b])))  # type: ignore[misc]
        for pair in self.pairs.values():
            if not pair.release.done():
                self.run(lambda pair=pair: pair.release.set_result(None))  # type: ignore[misc]
        for pair in self.pairs.values():
            for half in (pair.opening, pair.answering):
                if half.stream is not None:
                    self.run(half.stream.end)
        self.settle()


def future_ok(future: asyncio.Future[Any]) -> bool:
    """Whether it holds a result."""
    return not future.cancelled() and future.exception() is None


Peers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPeers = Peers.TestCase

__all__ = ["BlobGet", "TestPeers"]
