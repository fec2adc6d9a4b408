"""modal.Queue as the documentation describes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import modal
from intermodal.server.queues.arrivals import LOOK_DELAY
from modal import _client, _queue, _serialization, exception
from modal._protocol import blocking
from modal._protocol.frames import VERSION_MAX, VERSION_MIN
from modal._protocol.message import Message
from modal._protocol.messages.queue import QueueGet, QueuePut
from modal._protocol.messages.wire import Hello
from tests.integration.data.conftest import ServerProcess

MIB = 1 << 20
CONSUMER = """
import modal, os, sys
from modal._client import Client
Client.set_current(Client(sys.argv[1]))
q = modal.Queue.from_name(sys.argv[2]).hydrate()
print('waits', flush=True)
"""


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run it beside the test; what it returned, or raised."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def test_the_documented_example() -> None:
    with modal.Queue.ephemeral() as my_queue:
        my_queue.put("some value")
        my_queue.put(123)
        assert my_queue.get() == "some value"
        assert my_queue.get() == 123
        my_queue.put(0)
        my_queue.put(1, partition="foo")
        my_queue.put(2, partition="bar")
        assert my_queue.get(partition="bar") == 2
        my_queue.put(3, partition="foo", partition_ttl=10)
        my_queue.put(1)
        assert list(my_queue.iterate()) == [0, 1]
        assert my_queue.len() == 2
        assert my_queue.len(partition="foo") == 2
        assert my_queue.len(total=True) == 4
        my_queue.clear(partition="foo")
        assert my_queue.len(total=True) == 2
        my_queue.clear(all=True)
        assert my_queue.len(total=True) == 0


def test_nothing_there(q: modal.Queue) -> None:
    assert q.get(block=False) is None
    assert q.get_many(5, block=False) == []
    assert q.get_many(0) == []
    assert list(q.iterate()) == []
    for get in (lambda: q.get(timeout=0), lambda: q.get(timeout=0.05), lambda: q.get_many(3, timeout=0.05)):
        with pytest.raises(queue.Empty):
            get()


def test_in_batches(q: modal.Queue) -> None:
    q.put_many(list(range(10)))
    assert q.get_many(3) == [0, 1, 2]
    assert q.get_many(100) == list(range(3, 10))
    q.put_many([])
    large = [bytes([number]) * MIB for number in range(10)]
    q.put_many([item[:-100] for item in large])
    assert [len(item) for item in q.get_many(10)] == [MIB - 100] * 10  # more than one answer carries


def test_limits(q: modal.Queue) -> None:
    q.put_many(list(range(5000)))
    with pytest.raises(queue.Full):
        q.put("x", block=False)
    with pytest.raises(queue.Full):
        q.put("x", timeout=0.05)
    with pytest.raises(queue.Full, match="0 of 2"):
        q.put_many([1, 2], timeout=0.05)
    q.put("elsewhere", partition="p")
    assert q.get() == 0
    q.put("x", block=False)  # what was taken makes room
    with pytest.raises(exception.RequestSizeError, match="1 MiB"):
        q.put(b"x" * MIB)
    with pytest.raises(exception.SerializationError):
        q.put(threading.Lock())
    for partition in ("", "x" * 65, "ü" * 33):
        with pytest.raises(exception.InvalidError, match="64 bytes"):
            q.put(1, partition=partition)
    q.put(1, partition="x" * 64)
    for ttl in (0, -1, 24 * 3600 + 1):
        with pytest.raises(exception.InvalidError, match="24 hours"):
            q.put(1, partition_ttl=ttl)
    with pytest.raises(exception.InvalidError, match="timeout"):
        q.get(timeout=-1)
    with pytest.raises(exception.InvalidError, match="partition"):
        q.len(partition="p", total=True)
    with pytest.raises(exception.InvalidError, match="partition"):
        q.clear(partition="p", all=True)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """What clients of this process have sent."""
    send, found = blocking.Connection.send_message, []

    def noted(connection: blocking.Connection, kind: int, stream_id: int, message: Message) -> int:
        stream = send(connection, kind, stream_id, message)
        found.append(message)
        return stream

    monkeypatch.setattr(blocking.Connection, "send_message", noted)
    return found


def test_whoever_waits_longest_is_served_first(q: modal.Queue, sent: list[Message]) -> None:
    q.hydrate()
    waiting = []
    for number in range(5):
        waiting.append(in_thread(q.get))
        wait_for_waiting(q, sent, number + 1)
    q.put_many(list(range(5)))
    for thread, _results in waiting:
        thread.join(100)
    assert [results for _thread, results in waiting] == [[0], [1], [2], [3], [4]]


def wait_for_waiting(q: modal.Queue, sent: list[Message], count: int) -> None:
    """Until the server has read as many requests to get or put: what came earlier it reads first."""
    while sum(isinstance(message, (QueueGet, QueuePut)) for message in sent) < count:
        time.sleep(0.001)
    for _ in range(3):
        q.len()


def test_a_full_queue_takes_producers_in_their_order(q: modal.Queue, sent: list[Message]) -> None:
    q.put_many(list(range(5000)))
    sent.clear()
    first, first_result = in_thread(lambda: q.put_many(["a", "b"]))
    wait_for_waiting(q, sent, 1)
    second, second_result = in_thread(lambda: q.put("c"))
    wait_for_waiting(q, sent, 2)
    assert q.get() == 0
    wait_for_waiting(q, sent, 3)
    assert first_result == second_result == []  # there is room for the second, but the first came before
    assert q.get_many(2) == [1, 2]
    first.join(200)
    second.join(200)
    assert first_result == second_result == [None]
    assert q.get_many(5000)[-3:] == ["a", "b", "c"]


def test_a_consumer_that_gives_up_takes_nothing_with_it(q: modal.Queue) -> None:
    async def main() -> None:
        for _ in range(20):  # at different moments: before, while and after the item comes
            getting = asyncio.ensure_future(q.get.aio())
            await q.len.aio()
            putting = asyncio.ensure_future(q.put.aio("item"))
            for _ in range(os.urandom(1)[0] % 8):
                await asyncio.sleep(0)
            getting.cancel()
            await putting
            got = await asyncio.gather(getting, return_exceptions=True)
            if got != ["item"]:
                assert await q.get.aio(timeout=10) == "item"
            assert await q.len.aio() == 0

    asyncio.run(main())


def test_a_consumer_that_is_killed_takes_nothing_with_it(q: modal.Queue, server: ServerProcess) -> None:
    program = CONSUMER + "q.get()\nprint('got', flush=True)\n"
    q.hydrate()
    consumers = []
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", program, server.home.address, q._name], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "waits\n"
        consumers.append(child)
    wait_for_getters(q, 3)
    consumers[0].send_signal(signal.SIGKILL)
    consumers[0].wait()
    consumers[1].send_signal(signal.SIGSTOP)  # it is handed the item, and dies with it unread
    q.put("first")
    wait_for_getters(q, 1)
    consumers[1].send_signal(signal.SIGKILL)
    consumers[1].wait()
    out, _ = consumers[2].communicate(timeout=200)
    assert out == "got\n"
    for child in consumers[:2]:
        assert child.stdout is not None
        child.stdout.close()
    assert q.len() == 0


def test_a_consumer_whose_end_the_server_has_yet_to_notice_takes_nothing(
    q: modal.Queue, server: ServerProcess, sent: list[Message]
) -> None:
    """Its end and the next item are read in one turn of the server's loop."""
    program = CONSUMER + "q.get()\n"
    q.hydrate()
    with subprocess.Popen(
        [sys.executable, "-c", program, server.home.address, q._name], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waits\n"
        wait_for_getters(q, 1)
        sent.clear()
        os.kill(server.pid, signal.SIGSTOP)
        child.kill()
        child.wait()
    thread, result = in_thread(lambda: q.put("kept"))
    while not any(isinstance(message, QueuePut) for message in sent):
        time.sleep(0.001)
    os.kill(server.pid, signal.SIGCONT)
    thread.join(200)
    assert result == [None]
    assert q.get(timeout=100) == "kept"


def wait_for_getters(q: modal.Queue, _count: int) -> None:
    """Until the server has most likely read what other processes were about to ask."""
    for _ in range(3):
        q.len()
    threading.Event().wait(0.05)


def test_what_a_client_of_this_machine_has_read_has_arrived(
    q: modal.Queue, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[object] = []
    monkeypatch.setattr(blocking.Connection, "note", lambda _self, message: notes.append(message))
    q.put("a")
    q.put("b", partition="p")
    assert q.get() == "a"
    assert q.get(partition="p") == "b"
    server.stop()  # it asks the kernel once more; the client has said nothing of "b"
    with contextlib.closing(sqlite3.connect(server.home.path / "store.sqlite")) as store:
        assert store.execute("SELECT count(*) FROM queue_taken").fetchone() == (0,)
    server.start()
    assert notes == []
    assert q.len(total=True) == 0


def test_a_consumer_that_ends_at_once_keeps_what_it_got(q: modal.Queue, server: ServerProcess) -> None:
    q.put("first")
    subprocess.run(
        [sys.executable, "-c", f"{CONSUMER}q.get()\nos._exit(0)\n", server.home.address, q._name],
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    wait_for_getters(q, 0)
    q.put("second")
    assert q.get() == "second"


def test_a_consumer_that_is_interrupted_gives_back_what_it_has_read(
    q: modal.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[Any] = []
    note, decode = blocking.Connection.note, blocking.decode

    def noted(connection: blocking.Connection, message: Any) -> None:
        notes.append(message)
        note(connection, message)

    def interrupted(*parts: Any) -> Any:
        decode(*parts)
        raise KeyboardInterrupt

    q.put("first")
    with monkeypatch.context() as patch:
        patch.setattr(blocking.Connection, "note", noted)
        patch.setattr(blocking, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            q.get()
    assert [(said.kind, len(said.tokens), said.give_back) for said in notes] == [("queue", 1, True)]


def test_an_interrupt_between_arrival_and_return_loses_nothing(q: modal.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each line of the client that runs in between; a line is tried again where a busy machine took too long."""
    files = {_client.__file__, _queue.__file__, _serialization.__file__}
    request = blocking.Connection.request
    arrived, left = 0.0, 0

    def requested(*arguments: Any) -> Any:
        nonlocal arrived
        answer = request(*arguments)
        arrived = time.monotonic()
        return answer

    def interrupt(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename in files:
            if arrived and event == "line":
                left -= 1
                if not left:
                    raise KeyboardInterrupt
            return interrupt
        return None

    q.put("item")
    lines = 0
    while True:
        lines += 1
        arrived, left = 0.0, lines
        with monkeypatch.context() as patch:
            patch.setattr(blocking.Connection, "request", requested)
            before = sys.gettrace()
            sys.settrace(interrupt)
            try:
                got = q.get(timeout=10)
            except KeyboardInterrupt:
                got = None
            finally:
                sys.settrace(before)
        if got is not None:
            assert got == "item"
            break
        if time.monotonic() - arrived < LOOK_DELAY / 2:
            assert q.get(timeout=10) == "item", f"interrupted at line {lines}"
        else:
            q.get(block=False)
            lines -= 1
        q.put("item")
    assert lines > 10
    assert q.len() == 0


def test_only_the_process_itself_is_believed_to_have_read(server: ServerProcess) -> None:
    believed = []
    for process in (os.getpid(), os.getpid() + 1, 0):
        connection = blocking.connect(server.home.address, Hello("client", VERSION_MIN, VERSION_MAX, process=process))
        believed.append(connection.direct)
        connection.close()
    assert believed == [True, False, False]


def test_a_deleted_queue_wakes_whoever_waits(q: modal.Queue, sent: list[Message]) -> None:
    q.hydrate()
    q.put_many(list(range(5000)), partition="full")
    sent.clear()
    getter, got = in_thread(q.get)
    putter, put = in_thread(lambda: q.put(1, partition="full"))
    wait_for_waiting(q, sent, 2)
    modal.Queue.delete(q._name)
    getter.join(200)
    putter.join(200)
    for (error,) in (got, put):
        assert isinstance(error, exception.NotFoundError)
    for use in (lambda: q.put(1), lambda: q.get(block=False), q.len, lambda: list(q.iterate()), q.clear):
        with pytest.raises(exception.NotFoundError, match=r"deleted|does not exist"):
            use()


def test_iterate_waits_for_the_next_item(q: modal.Queue, sent: list[Message]) -> None:
    q.put(1)
    sent.clear()
    thread, seen = in_thread(lambda: list(q.iterate(item_poll_timeout=4.0)))
    wait_for_waiting(q, sent, 1)
    q.put(2)
    thread.join(200)
    assert seen == [[1, 2]]
    assert q.len() == 2
    with pytest.warns(UserWarning, match="iterate"):
        q.iterate()


def test_an_item_that_cannot_be_read_is_said_to_be_of_which_queue(q: modal.Queue) -> None:
    q.put(Unreadable())
    with pytest.raises(exception.DeserializationError, match=f"an item of the Queue {q._name} cannot be .* of no use"):
        list(q.iterate())
    assert list(q._readable_items(None, lambda error: str(error)[:22])) == ["it cannot be deseriali"]
    with pytest.raises(exception.DeserializationError, match=f"an item of the Queue {q._name} cannot be"):
        q.get()
    assert q.len() == 0


class Unreadable:
    def __reduce__(self) -> object:
        return no_use, ()


def no_use() -> None:
    raise ValueError("of no use")


@pytest.mark.parametrize("wrong", ["1", None, float("nan"), True])
def test_wrong_waits_are_named(q: modal.Queue, wrong: Any) -> None:
    with pytest.raises(exception.InvalidError, match="item_poll_timeout must be a number of seconds"):
        list(q.iterate(item_poll_timeout=wrong))


def test_a_partition_key_that_is_no_text(q: modal.Queue) -> None:
    with pytest.raises(exception.InvalidError, match="must be text that UTF-8 has"):
        q.put(1, partition="\ud800")


def test_partitions_expire_by_themselves(q: modal.Queue) -> None:
    q.put("gone soon", partition="short", partition_ttl=2)
    q.put("stays", partition="long")
    assert q.len(partition="short") == 1
    while q.len(partition="short"):
        time.sleep(0.05)
    assert q.get(block=False, partition="short") is None
    assert q.len(total=True) == 1
    q.put("anew", partition="short", partition_ttl=100)
    assert q.get(partition="short") == "anew"


def test_ephemeral_objects_end_with_their_block(server: ServerProcess) -> None:
    with modal.Queue.ephemeral(_heartbeat_sleep=0.05) as q, modal.Dict.ephemeral(_heartbeat_sleep=0.05) as d:
        threading.Event().wait(0.2)
        q.put(d)
        assert q.get().object_id == d.object_id
    for use in (lambda: q.put(1), lambda: d.get(1)):
        with pytest.raises(exception.NotFoundError):
            use()
    assert not [thread for thread in threading.enumerate() if thread.name == "modal-heartbeat" and _lives(thread)]


def _lives(thread: threading.Thread) -> bool:
    thread.join(5)
    return thread.is_alive()


def test_asyncio(q: modal.Queue) -> None:
    async def main() -> None:
        waiting = [asyncio.ensure_future(q.get.aio()) for _ in range(50)]
        await asyncio.gather(*(q.put.aio(number) for number in range(50)))
        assert sorted(await asyncio.gather(*waiting)) == list(range(50))
        async with modal.Queue.ephemeral() as other:
            await other.put_many.aio([1, 2, 3])
            assert [item async for item in other.iterate.aio()] == [1, 2, 3]
            assert await other.get_many.aio(2) == [1, 2]
            with pytest.raises(queue.Empty):
                await q.get.aio(timeout=0.01)

    asyncio.run(main())
