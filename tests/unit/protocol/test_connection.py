"""One connection against a peer that may send anything: the rules of the protocol, one by one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from modal._protocol import aio, transport
from modal._protocol.aio import Connection, Handlers, Stream
from modal._protocol.errors import ConnectionLost, Fault, ProtocolError, WireError
from modal._protocol.frames import PREFIX, Frame, FrameBuffer, Kind, pack
from modal._protocol.message import Message, decode
from modal._protocol.messages.call import BlobChunk, BlobGet, BlobPut, Invoke, Outputs
from modal._protocol.messages.log import LogBatch
from modal._protocol.messages.wire import Credit, Done, Failure, Hello
from tests.unit.protocol.wires import HELLO, MemoryTransport, accepting, any_bytes, chunked, finish


def frames_of(wire: MemoryTransport) -> list[Frame]:
    return FrameBuffer().feed(wire.taken())


def faults_of(wire: MemoryTransport) -> list[tuple[int, str, str]]:
    """(stream, code, text) of the FAULT frames that were written."""
    found = []
    for frame in frames_of(wire):
        if frame.kind == Kind.FAULT:
            failure = Failure.decode(frame.header, frame.body)
            found.append((frame.stream, failure.code, failure.text))
    return found


def framed(kind: int, stream: int, message: Message) -> bytes:
    return pack(kind, message.TYPE, stream, *message.encode())


async def turn(times: int = 3) -> None:
    """Let what is ready run."""
    for _ in range(times):
        await asyncio.sleep(0)


def handlers_of_everything() -> Handlers:
    handlers = Handlers()

    @handlers.fast(Invoke)
    def invoke(connection: Connection, stream_id: int, message: Invoke) -> None:
        connection.respond(stream_id, Outputs([0], [0], [message.args]))

    @handlers.unary(Done)
    async def done(connection: Connection, message: Done) -> Done:
        return message

    @handlers.stream(BlobPut)
    async def put(connection: Connection, message: BlobPut, stream: Stream) -> Done:
        async for _item in stream:
            pass
        return Done()

    @handlers.stream(BlobGet)
    async def get(connection: Connection, message: BlobGet, stream: Stream) -> None:
        stream.raw = lambda frame: decode(frame.type, frame.header, frame.body) and None

    @handlers.note(LogBatch)
    def log(connection: Connection, message: LogBatch) -> None:
        pass

    return handlers


# -- anything at all -----------------------------------------------------------------------------


@given(chunks=chunked())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_bytes_crash_hang_or_bloat(chunks: list[bytes]) -> None:
    async def scenario() -> None:
        defects: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: defects.append(context))
        for greeted in (False, True):
            connection, _wire = accepting(handlers_of_everything(), greeted=greeted)
            for chunk in chunks:
                connection.data_received(chunk)
                await turn(1)
            await turn()
            assert connection.held <= sum(map(len, chunks))
            assert len(connection._streams) + len(connection._tasks) <= sum(map(len, chunks)) // 16 * 2
            finish(connection)
            await turn()
            assert not connection._tasks
            assert not connection._streams
        assert not defects, defects

    asyncio.run(scenario())


@given(chunks=chunked())
def test_the_connecting_side_takes_anything_too(chunks: list[bytes]) -> None:
    async def scenario() -> None:
        connection = Connection(handlers_of_everything(), accepting=False)
        connection.connection_made(MemoryTransport(connection))
        connection.data_received(framed(Kind.WELCOME, 0, Done()))
        waiting = [asyncio.ensure_future(connection.request(Done(), Done)) for _ in range(2)]
        stream = connection.open(BlobGet("x"))
        receiving = asyncio.ensure_future(stream.receive())
        await turn()
        for chunk in chunks:
            connection.data_received(chunk)
        await turn()
        finish(connection)
        results = await asyncio.gather(*waiting, receiving, return_exceptions=True)
        for result in results:
            assert result is None or isinstance(result, (Message, WireError, Fault)), result

    asyncio.run(scenario())


# -- greeting ------------------------------------------------------------------------------------


async def test_frames_before_the_greeting_end_the_connection() -> None:
    connection, wire = accepting(handlers_of_everything(), greeted=False)
    connection.data_received(framed(Kind.REQUEST, 1, Done()))
    assert connection.closed
    assert faults_of(wire)[0][0] == 0
    finish(connection)


async def test_a_second_greeting_ends_the_connection() -> None:
    connection, wire = accepting()
    connection.data_received(framed(Kind.HELLO, 0, HELLO))
    assert connection.closed
    assert "no place" in faults_of(wire)[0][2]
    finish(connection)


@pytest.mark.parametrize("low, high", [(0, 0), (2, 9), (5, 1)])
async def test_another_version_is_refused_with_what_to_do(low: int, high: int) -> None:
    connection, wire = accepting(greeted=False)
    connection.data_received(framed(Kind.HELLO, 0, Hello("client", low, high)))
    assert connection.closed
    ((_stream, code, text),) = faults_of(wire)
    assert code == "version"
    assert "install the same version" in text
    finish(connection)


async def test_a_hello_that_is_too_long_is_refused() -> None:
    connection, wire = accepting(greeted=False)
    connection.data_received(framed(Kind.HELLO, 0, Hello("client", 1, 1, software="x" * 100_000)))
    assert connection.closed
    assert "limit" in faults_of(wire)[0][2]
    finish(connection)


async def test_who_does_not_greet_in_time_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "GREETING_SECONDS", 0.01)
    connection, wire = accepting(greeted=False)
    with pytest.raises(ProtocolError, match="in time"):
        await connection.greeted
    assert wire.closing
    finish(connection)


# -- numbers of streams --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [0, 2, 4])
async def test_a_stream_of_the_wrong_side_cannot_be_opened(stream: int) -> None:
    for message in (Done(), Invoke("c", "f", b""), BlobPut("x", 1)):
        connection, wire = accepting(handlers_of_everything())
        connection.data_received(framed(Kind.REQUEST, stream, message))
        assert connection.closed
        assert "cannot be opened" in faults_of(wire)[0][2]
        finish(connection)


async def test_a_number_in_use_cannot_be_opened_again() -> None:
    handlers = handlers_of_everything()
    handlers.fast(Invoke)(lambda _connection, _stream_id, _message: None)  # answers later
    for message in (Done(), Invoke("c", "f", b""), BlobPut("x", 1)):
        connection, wire = accepting(handlers)
        connection.data_received(framed(Kind.REQUEST, 1, message) * 2)
        assert connection.closed
        assert "cannot be opened" in faults_of(wire)[-1][2]
        finish(connection)
        await turn()


async def test_numbers_come_round_and_leave_out_those_in_use() -> None:
    connection, _wire = accepting()
    kept = connection.open(BlobGet("x"))
    connection._next_stream = aio.LAST_STREAM
    assert [connection._new_id() for _ in range(3)] == [4, 6, 8]
    assert kept.id == 2
    finish(connection)


async def test_an_answer_on_a_stream_of_the_peer_ends_the_connection() -> None:
    connection, _wire = accepting()
    connection.data_received(framed(Kind.RESPONSE, 1, Done()))
    assert connection.closed
    finish(connection)


async def test_a_late_answer_is_ignored() -> None:
    connection, _wire = accepting()
    connection.data_received(framed(Kind.RESPONSE, 2, Done()) + framed(Kind.ITEM, 2, Done()) + pack(Kind.END, 0, 2))
    assert not connection.closed
    finish(connection)


async def test_the_answering_side_cannot_cancel() -> None:
    connection, _wire = accepting()
    connection.open(BlobGet("x"))
    connection.data_received(pack(Kind.CANCEL, 0, 2))
    assert connection.closed
    finish(connection)


# -- items ---------------------------------------------------------------------------------------


async def test_an_item_after_the_end_ends_the_connection() -> None:
    connection, wire = accepting(handlers_of_everything())
    connection.data_received(
        framed(Kind.REQUEST, 1, BlobPut("x", 1)) + pack(Kind.END, 0, 1) + framed(Kind.ITEM, 1, BlobChunk(b"x"))
    )
    assert connection.closed
    assert "after its end" in faults_of(wire)[0][2]
    finish(connection)
    await turn()


async def test_who_ignores_credit_is_stopped() -> None:
    connection, wire = accepting(handlers_of_everything())
    handlers = connection.handlers

    @handlers.stream(BlobPut)
    async def put(connection: Connection, message: BlobPut, stream: Stream) -> None:
        await asyncio.Event().wait()

    connection.data_received(framed(Kind.REQUEST, 1, BlobPut("x", 1)))
    chunk = framed(Kind.ITEM, 1, BlobChunk(b"x" * (1 << 20)))
    sent = 0
    while not connection.closed:
        connection.data_received(chunk)
        sent += len(chunk)
        assert sent < 2 * aio.MAX_STREAM_HELD
    assert "credit" in faults_of(wire)[-1][2]
    finish(connection)
    await turn()


async def test_many_large_requests_at_once_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "MAX_HELD", 1 << 20)
    handlers = Handlers()

    @handlers.unary(BlobChunk)
    async def never(connection: Connection, message: BlobChunk) -> Done:
        await asyncio.Event().wait()
        return Done()

    connection, _wire = accepting(handlers)
    for number in range(1, 100, 2):
        connection.data_received(framed(Kind.REQUEST, number, BlobChunk(b"x" * 100_000)))
    assert connection.closed
    finish(connection)
    await turn()
    assert connection.held == 0


async def test_too_many_requests_are_refused_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "MAX_STREAMS", 10)
    monkeypatch.setattr(aio, "MAX_FAST", 10)
    handlers = handlers_of_everything()
    handlers.fast(Invoke)(lambda _connection, _stream_id, _message: None)
    connection, wire = accepting(handlers)
    for number in range(1, 41, 2):
        connection.data_received(framed(Kind.REQUEST, number, BlobPut("x", 1)))
    assert [(stream, code) for stream, code, _ in faults_of(wire)] == [(n, "exhausted") for n in range(21, 41, 2)]
    for number in range(101, 141, 2):
        connection.data_received(framed(Kind.REQUEST, number, Invoke("c", "f", b"")))
    assert [stream for stream, _, _ in faults_of(wire)] == list(range(121, 141, 2))
    assert not connection.closed
    finish(connection)
    await turn()


@pytest.mark.parametrize("size", [0, -1, 1 << 40])
async def test_credit_must_make_sense(size: int) -> None:
    connection, _wire = accepting()
    connection.open(BlobGet("x"))
    connection.data_received(framed(Kind.CREDIT, 2, Credit(size)))
    assert connection.closed
    finish(connection)


async def test_who_asks_but_does_not_read_is_let_go() -> None:
    connection = Connection(handlers_of_everything(), accepting=False)
    wire = MemoryTransport(connection, high=10_000)
    connection.connection_made(wire)
    connection.data_received(framed(Kind.WELCOME, 0, Done()))
    pings = PREFIX.pack(Kind.PING, 0, 0, 0, 0, 0) * 1000
    for _ in range(100):
        connection.data_received(pings)
    assert connection.closed
    assert len(wire.written) < 100_000
    finish(connection)


async def test_who_asks_for_much_and_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_UNREAD", 1 << 20)
    connection = Connection(handlers_of_everything(), accepting=True)
    wire = MemoryTransport(connection, high=10_000)
    connection.connection_made(wire)
    connection.data_received(framed(Kind.HELLO, 0, HELLO))
    for number in range(1, 2001, 2):
        if not connection.closed:
            connection.data_received(framed(Kind.REQUEST, number, Invoke("c", "f", b"x" * 10_000)))
    assert wire.aborted
    assert len(wire.written) < 2 << 20
    finish(connection)


# -- what is wrong with one request stays with it -------------------------------------------------


async def test_a_request_that_cannot_be_read_is_refused_alone() -> None:
    connection, wire = accepting(handlers_of_everything())
    connection.data_received(
        pack(Kind.REQUEST, Invoke.TYPE, 1, b"[7]")
        + pack(Kind.REQUEST, 60_000, 3, b"[]")
        + framed(Kind.REQUEST, 5, BlobChunk(b"x"))
        + framed(Kind.REQUEST, 7, Invoke("c", "f", b"x"))
    )
    frames = frames_of(wire)
    assert [(frame.kind, frame.stream) for frame in frames] == [
        (Kind.FAULT, 1), (Kind.FAULT, 3), (Kind.FAULT, 5), (Kind.RESPONSE, 7),
    ]  # fmt: skip
    assert not connection.closed
    finish(connection)


async def test_an_item_that_cannot_be_read_ends_its_stream_alone() -> None:
    connection, wire = accepting(handlers_of_everything())
    for message in (BlobPut("x", 1), BlobGet("x")):  # received one by one, and raw
        number = 1 if isinstance(message, BlobPut) else 3
        connection.data_received(framed(Kind.REQUEST, number, message))
        await turn()
        connection.data_received(pack(Kind.ITEM, BlobChunk.TYPE, number, b"[99]"))
        await turn()
        assert [(stream, code) for stream, code, _ in faults_of(wire)] == [(number, "invalid")]
        assert not connection.closed
    assert not connection._streams
    finish(connection)


async def test_a_defect_of_a_handler_is_told_and_reported() -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["message"]))
    handlers = Handlers()

    @handlers.unary(Done)
    async def broken(connection: Connection, message: Done) -> Done:
        raise KeyError("a defect")

    @handlers.fast(Invoke)
    def broken_fast(connection: Connection, stream_id: int, message: Invoke) -> None:
        raise KeyError("a defect")

    @handlers.stream(BlobGet)
    async def broken_raw(connection: Connection, message: BlobGet, stream: Stream) -> None:
        def fail(_frame: Frame) -> None:
            raise KeyError("a defect")

        stream.raw = fail

    @handlers.note(BlobChunk)
    def broken_note(connection: Connection, message: BlobChunk) -> None:
        raise KeyError("a defect")

    connection, wire = accepting(handlers)
    connection.on_close.append(lambda _error: 1 / 0 and None)
    connection.data_received(framed(Kind.REQUEST, 1, Done()))
    connection.data_received(framed(Kind.REQUEST, 3, Invoke("c", "f", b"")))
    connection.data_received(framed(Kind.REQUEST, 5, BlobGet("x")))
    await turn()
    connection.data_received(framed(Kind.ITEM, 5, BlobChunk(b"x")))
    connection.data_received(framed(Kind.NOTE, 0, BlobChunk(b"x")))
    await turn()
    assert sorted(stream for stream, code, _ in faults_of(wire) if code == "internal") == [1, 3, 5]
    assert not connection.closed
    finish(connection)
    assert len(reported) == 5


# -- cancellation --------------------------------------------------------------------------------


async def test_a_cancelled_request_reaches_its_handler() -> None:
    seen: list[str] = []
    handlers = Handlers()

    @handlers.unary(Done)
    async def wait(connection: Connection, message: Done) -> Done:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("unary")
        return message

    @handlers.stream(BlobPut)
    async def put(connection: Connection, message: BlobPut, stream: Stream) -> None:
        try:
            await stream.receive()
        except Fault as fault:
            seen.append(fault.code)
            raise

    handlers.fast(Invoke)(lambda _connection, _stream_id, _message: None)
    connection, _wire = accepting(handlers)
    connection.on_cancel = lambda stream_id: seen.append(f"fast {stream_id}")
    connection.data_received(
        framed(Kind.REQUEST, 1, Done())
        + framed(Kind.REQUEST, 3, BlobPut("x", 1))
        + framed(Kind.REQUEST, 5, Invoke("c", "f", b""))
    )
    await turn()
    connection.data_received(pack(Kind.CANCEL, 0, 1) + pack(Kind.CANCEL, 0, 3) + pack(Kind.CANCEL, 0, 5))
    await turn()
    assert "unary" in seen
    assert "fast 5" in seen
    assert not connection._tasks
    assert not connection._streams
    assert not connection._fast
    finish(connection)


async def test_who_gives_up_a_request_tells_the_peer() -> None:
    connection, wire = accepting()
    asking = asyncio.ensure_future(connection.request(Done(), Done))
    await turn()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await turn()
    assert [frame.kind for frame in frames_of(wire)] == [Kind.REQUEST, Kind.CANCEL]
    assert not connection._waiting
    finish(connection)


# -- raw streams ---------------------------------------------------------------------------------


async def test_a_raw_stream_stays_open_until_both_sides_ended() -> None:
    got: list[Frame] = []
    streams: list[Stream] = []
    ended: list[Exception | None] = []
    handlers = Handlers()

    @handlers.stream(BlobGet)
    async def get(connection: Connection, message: BlobGet, stream: Stream) -> None:
        stream.raw = got.append
        stream.on_end = ended.append
        streams.append(stream)

    connection, wire = accepting(handlers)
    connection.data_received(framed(Kind.REQUEST, 1, BlobGet("x")))
    await turn()
    assert not connection._tasks
    assert not frames_of(wire)  # no END: the handler has only set it up
    connection.data_received(framed(Kind.ITEM, 1, BlobChunk(b"1")))
    streams[0].send_now(BlobChunk(b"2"))
    streams[0].end()
    await turn()
    assert [frame.kind for frame in frames_of(wire)] == [Kind.ITEM, Kind.END]
    connection.data_received(framed(Kind.ITEM, 1, BlobChunk(b"3")))
    assert [frame.body for frame in got] == [b"1", b"3"]
    assert 1 in connection._streams
    connection.data_received(pack(Kind.END, 0, 1))
    assert ended == [None]
    assert not connection._streams
    finish(connection)


async def test_a_raw_receiver_gives_credit() -> None:
    connection, wire = accepting(handlers_of_everything())
    connection.data_received(framed(Kind.REQUEST, 1, BlobGet("x")))
    await turn()
    for _ in range(8):
        connection.data_received(framed(Kind.ITEM, 1, BlobChunk(b"x" * 100_000)))
    credits = [Credit.decode(frame.header, frame.body).size for frame in frames_of(wire) if frame.kind == Kind.CREDIT]
    assert 500_000 < sum(credits) <= 800_100
    finish(connection)


async def test_items_that_came_before_raw_was_set_are_not_lost() -> None:
    connection, _wire = accepting()
    stream = connection.open(BlobGet("x"))
    connection.data_received(framed(Kind.ITEM, 2, BlobChunk(b"1")))
    early = stream.take_queued()
    assert [frame.body for frame in early] == [b"1"]
    assert connection.held == 0
    finish(connection)


# -- the end -------------------------------------------------------------------------------------


async def test_everybody_who_waits_hears_of_the_end() -> None:
    connection, _wire = accepting(handlers_of_everything())
    closed: list[Exception | None] = []
    connection.on_close.append(closed.append)
    stream = connection.open(BlobGet("x"))
    full = connection.open(BlobPut("x", 1))
    full._credit = 0
    waiting = [
        asyncio.ensure_future(connection.request(Done(), Done)),
        asyncio.ensure_future(stream.receive()),
        asyncio.ensure_future(full.send(BlobChunk(b"x"))),
        asyncio.ensure_future(full.send(BlobChunk(b"x"))),
        asyncio.ensure_future(connection.ping()),
    ]
    watching = asyncio.ensure_future(stream.wait_ended())
    await turn()
    finish(connection)
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, ConnectionLost)
    await watching
    assert len(closed) == 1
    with pytest.raises(ConnectionLost):
        connection.open(BlobGet("x"))
    with pytest.raises(ConnectionLost):
        await connection.request(Done(), Done)
    stream.send_now(BlobChunk(b"ignored"))
    stream.cancel()


async def test_the_peers_reason_is_kept() -> None:
    connection, _wire = accepting()
    stream = connection.open(BlobGet("x"))
    receiving = asyncio.ensure_future(stream.receive())
    await turn()
    connection.data_received(framed(Kind.FAULT, 0, Failure("invalid", "you sent nonsense")))
    finish(connection)
    with pytest.raises(ConnectionLost, match="you sent nonsense"):
        await receiving


async def test_sending_on_a_stream_that_is_over_says_so() -> None:
    connection, _wire = accepting()
    stream = connection.open(BlobPut("x", 1))
    stream.end()
    with pytest.raises(Fault, match="ended"):
        await stream.send(BlobChunk(b"x"))
    refused = connection.open(BlobPut("x", 1))
    connection.data_received(framed(Kind.FAULT, refused.id, Failure("not-found", "no such blob")))
    with pytest.raises(Fault, match="no such blob"):
        await refused.send(BlobChunk(b"x"))
    finish(connection)


async def test_one_given_up_sender_does_not_stop_the_next() -> None:
    connection, wire = accepting()
    stream = connection.open(BlobPut("x", 1))
    stream._credit = 0
    first = asyncio.ensure_future(stream.send(BlobChunk(b"1")))
    second = asyncio.ensure_future(stream.send(BlobChunk(b"2")))
    await turn()
    first.cancel()
    await turn()
    connection.data_received(framed(Kind.CREDIT, stream.id, Credit(1000)))
    await second
    assert [frame.body for frame in frames_of(wire) if frame.kind == Kind.ITEM] == [b"2"]
    finish(connection)


async def test_one_given_up_drain_does_not_stop_the_others() -> None:
    connection, wire = accepting()
    wire.high = 10
    connection.note(BlobChunk(b"x" * 100))
    connection.flush()
    assert connection.paused
    first = asyncio.ensure_future(connection.drain())
    second = asyncio.ensure_future(connection.drain())
    await turn()
    first.cancel()
    await turn()
    wire.taken()
    await second
    finish(connection)


async def test_two_receivers_of_one_stream_are_a_defect() -> None:
    connection, _wire = accepting()
    stream = connection.open(BlobGet("x"))
    first = asyncio.ensure_future(stream.receive())
    await turn()
    with pytest.raises(RuntimeError):
        await stream.receive()
    connection.data_received(framed(Kind.ITEM, stream.id, BlobChunk(b"1")))
    assert await first == BlobChunk(b"1")
    finish(connection)


# -- the peer's end ------------------------------------------------------------------------------


async def test_after_the_peers_end_nothing_is_sent() -> None:
    """Whoever asks whether all was read must not have had something written in between."""
    connection, wire = accepting()
    before = len(wire.written)
    assert connection.eof_received() is False
    assert connection.read_to_end
    assert connection.closed
    connection.respond(1, Done())
    await turn()
    assert len(wire.written) == before
    finish(connection)


# -- keeping alive -------------------------------------------------------------------------------


async def test_a_silent_peer_is_pinged_and_then_given_up() -> None:
    connection, wire = accepting()
    lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    connection.on_close.append(lost.set_result)
    wire.abort = lambda: connection.connection_lost(None)  # type: ignore[method-assign]
    connection.keep_alive(0.02)
    error = await lost
    assert "silent" in str(error)
    assert [frame.kind for frame in frames_of(wire)] == [Kind.PING]


async def test_a_peer_that_answers_is_kept() -> None:
    connection, wire = accepting()
    connection.keep_alive(0.25)
    pings = 0
    while pings < 5:
        await asyncio.sleep(0.01)
        for frame in frames_of(wire):
            assert frame.kind == Kind.PING
            pings += 1
            connection.data_received(pack(Kind.PONG, 0, 0))
        assert not connection.closed
    finish(connection)


@given(any_bytes)
@settings(max_examples=50)
def test_bytes_after_the_end_do_nothing(data: bytes) -> None:
    async def scenario() -> None:
        connection, wire = accepting(handlers_of_everything())
        finish(connection)
        connection.data_received(data)
        connection.write(data)
        connection.close()
        await turn()
        assert wire.taken() == b""

    asyncio.run(scenario())
