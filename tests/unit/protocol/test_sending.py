"""What is written together leaves together, and at once where that was asked for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from modal._protocol.frames import FrameBuffer, Kind
from modal._protocol.messages.wire import Done
from modal._protocol.sending import together
from tests.unit.protocol.wires import MemoryTransport, accepting


class Counting(MemoryTransport):
    """Knows in how many pieces it was written to."""

    writes = 0

    def write(self, data: object) -> None:
        self.writes += 1
        super().write(data)


def counted() -> tuple[object, Counting]:
    connection, _wire = accepting()
    wire = Counting(connection)
    connection._transport = wire
    return connection, wire


async def test_answers_leave_when_the_work_is_over_in_one_piece_each_connection() -> None:
    (first, wire_of_first), (second, wire_of_second) = counted(), counted()

    def work() -> None:
        for stream in (1, 3, 5):
            first.respond(stream, Done())  # type: ignore[attr-defined]
        second.respond(1, Done())  # type: ignore[attr-defined]
        assert wire_of_first.writes == wire_of_second.writes == 0

    together(asyncio.get_running_loop(), work)
    assert (wire_of_first.writes, wire_of_second.writes) == (1, 1)
    frames = FrameBuffer().feed(wire_of_first.taken())
    assert [(frame.kind, frame.stream) for frame in frames] == [
        (Kind.RESPONSE, 1),
        (Kind.RESPONSE, 3),
        (Kind.RESPONSE, 5),
    ]
    first.respond(7, Done())  # type: ignore[attr-defined]
    assert wire_of_first.writes == 1
    await asyncio.sleep(0)
    assert wire_of_first.writes == 2, "afterwards it is the loop's next turn again"


async def test_work_within_work_and_work_that_fails() -> None:
    connection, wire = counted()
    loop = asyncio.get_running_loop()

    def inner() -> None:
        connection.respond(1, Done())  # type: ignore[attr-defined]
        raise ValueError("inner")

    def outer() -> None:
        with pytest.raises(ValueError, match="inner"):
            together(loop, inner)
        assert wire.writes == 0, "the outer one is not over"
        connection.respond(3, Done())  # type: ignore[attr-defined]
        raise ValueError("outer")

    with pytest.raises(ValueError, match="outer"):
        together(loop, outer)
    assert wire.writes == 1
    assert [frame.stream for frame in FrameBuffer().feed(wire.taken())] == [1, 3]


async def test_another_loop_has_nothing_to_do_with_it() -> None:
    written: list[int] = []

    async def elsewhere() -> None:
        connection, wire = counted()
        connection.respond(1, Done())  # type: ignore[attr-defined]
        written.append(wire.writes)
        await asyncio.sleep(0)
        written.append(wire.writes)

    def work() -> None:
        thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
        thread.start()
        thread.join()

    together(asyncio.get_running_loop(), work)
    assert written == [0, 1]
