"""Coverage-guided fuzzing of the wire: `make fuzz`, or `python tests/fuzz/fuzz_frames.py [libFuzzer options]`.

The first byte chooses what is fed: the frame buffer, a message, the accepting or the connecting side
of a connection, or the HTTP side. A crash, a hang (5 s), or more memory than the bytes explain is a finding.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

SKIPPED = 75  # exit status; 77 is libFuzzer's for a finding

try:
    import atheris
except ImportError:
    print("atheris is not installed: pip install atheris")
    sys.exit(SKIPPED)

with atheris.instrument_imports(include=["modal._protocol", "json"]):
    from modal._protocol import messages, upgrade
    from modal._protocol.address import parse
    from modal._protocol.aio import Connection, Handlers, Stream
    from modal._protocol.errors import ProtocolError, Unreachable
    from modal._protocol.frames import FrameBuffer, Kind, pack
    from modal._protocol.message import Message, decode
    from modal._protocol.messages.call import BlobGet, BlobPut, Invoke, Outputs
    from modal._protocol.messages.wire import Done, Hello, Welcome

from tests.unit.protocol.wires import MemoryTransport  # noqa: E402 - after the instrumentation

messages.load_all()

HELLO = pack(Kind.HELLO, Hello.TYPE, 0, *Hello("client", 1, 1).encode())
WELCOME = pack(Kind.WELCOME, Welcome.TYPE, 0, *Welcome(1).encode())
WHERE = parse("tcp://localhost:1")
TYPES = sorted(Message.registry)
defects: list[dict[str, Any]] = []


def handlers() -> Handlers:
    """One of each kind."""
    table = Handlers()
    table.fast(Invoke)(lambda connection, stream_id, message: connection.respond(stream_id, Outputs([0], [0], [b"x"])))

    @table.unary(Done)
    async def done(connection: Connection, message: Done) -> Done:
        return message

    @table.stream(BlobPut)
    async def put(connection: Connection, message: BlobPut, stream: Stream) -> Done:
        async for _item in stream:
            pass
        return Done()

    @table.stream(BlobGet)
    async def get(connection: Connection, message: BlobGet, stream: Stream) -> None:
        stream.raw = lambda frame: None

    return table


def feed_connection(data: bytes, accepting: bool, size: int) -> None:
    """Bytes in pieces of `size` to one side of a greeted connection."""

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: defects.append(context))
        connection = Connection(handlers(), accepting=accepting, greet=lambda _connection, _hello: Welcome(1))
        wire = MemoryTransport(connection)
        connection.connection_made(wire)
        connection.data_received(HELLO if accepting else WELCOME)
        asking: list[asyncio.Future[Any]] = []
        if not accepting:
            asking = [asyncio.ensure_future(connection.request(Done(), Done))]
            asking.append(asyncio.ensure_future(connection.open(BlobGet("x")).receive()))
        await asyncio.sleep(0)
        for at in range(0, len(data), size):
            connection.data_received(data[at : at + size])
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert connection.held <= len(data)
        assert len(wire.written) < 1000 + 100 * len(data), "a small question with a large answer"
        connection.connection_lost(None)
        await asyncio.gather(*asking, return_exceptions=True)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not connection._tasks
        assert not connection._streams

    loop.run_until_complete(scenario())
    assert not defects, defects


def one_input(data: bytes) -> None:
    """What libFuzzer calls."""
    if len(data) < 3:
        return
    what, size, rest = data[0] % 6, data[1] + 1, data[2:]
    try:
        if what == 0:
            buffer = FrameBuffer(greeting=bool(size & 1))
            frames = sum(len(buffer.feed(rest[at : at + size])) for at in range(0, len(rest), size))
            assert frames <= len(rest) // 16
            assert len(buffer._rest) <= len(rest)
        elif what == 1:
            cut = min(len(rest), size)
            message = decode(TYPES[rest[0] % len(TYPES)], rest[1:cut], rest[cut:])
            message.encode()
        elif what in (2, 3):
            feed_connection(rest, what == 2, size)
        elif what == 4:
            upgrade.classify(rest)
            upgrade.read_answer(rest, WHERE)
        else:
            parse(rest.decode("utf-8", "replace"))
    except (ProtocolError, Unreachable):
        pass


def seeds(folder: Path) -> None:
    """Something valid of each kind to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    conversation = b"".join(
        pack(kind, message.TYPE, stream, *message.encode())
        for kind, stream, message in (
            (Kind.REQUEST, 1, Done()),
            (Kind.REQUEST, 3, Invoke("fc-A", "fu-B", b"xyz")),
            (Kind.REQUEST, 5, BlobPut("vl-x", 3)),
            (Kind.ITEM, 5, Outputs([0], [0], [b"abc"])),
            (Kind.REQUEST, 7, BlobGet("vl-x")),
            (Kind.ITEM, 7, Outputs([0], [0], [b"abc"])),
        )
    ) + b"".join(pack(kind, 0, stream) for kind, stream in ((Kind.END, 5), (Kind.CANCEL, 7), (Kind.PING, 0)))
    answers = pack(Kind.RESPONSE, Done.TYPE, 1) + pack(Kind.ITEM, 33, 3, b"[1]", b"x") + pack(Kind.END, 0, 3)
    for number, (what, data) in enumerate(
        [(0, conversation), (1, b"\x14[1]"), (2, conversation), (3, answers), (4, upgrade.request_head(WHERE)),
         (4, upgrade.ACCEPTED), (5, b"tls://[::1]:443"), (5, b"unix:/run/x")]
    ):  # fmt: skip
        (folder / f"seed-{number}").write_bytes(bytes([what, 40]) + data)


if __name__ == "__main__":
    corpus = Path(".fuzz/frames")
    seeds(corpus)
    loop = asyncio.new_event_loop()
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            "-artifact_prefix=.fuzz/",
            "-timeout=5",
            "-rss_limit_mb=1024",
            "-max_len=4096",
            *sys.argv[1:],
        ],
        one_input,
    )
    atheris.Fuzz()
