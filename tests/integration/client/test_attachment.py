from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from modal._client import Client
from modal._protocol.messages.app import AppEnded
from modal._protocol.messages.log import LogBatch
from modal._sync import run

from .calls import Fn
from .stand_in import StandIn
from .test_calls import wait_for


class Screen:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended = threading.Event()
        self.slow = threading.Event()
        self.slow.set()

    def __call__(self, message: Any) -> None:
        self.slow.wait(200)
        if isinstance(message, LogBatch):
            self.lines.extend(entry.text for entry in message.entries)
        elif isinstance(message, AppEnded):
            self.ended.set()


@pytest.fixture
def screen() -> Screen:
    return Screen()


def test_logs_come_until_the_app_ends(stand_in: StandIn, client: Client, screen: Screen) -> None:
    stand_in.log("ap-1", "one\n")
    attachment = client.attach("ap-1", screen)
    assert client.attachments == {"ap-1": attachment}
    assert run(attachment.drain(1))
    stand_in.log("ap-1", "two\n")
    stand_in.log("ap-1", "")
    assert screen.ended.wait(200)
    assert attachment.wait_ended(200)
    assert screen.lines == ["one\n", "two\n"]
    assert attachment.error is None
    attachment.close()
    assert client.attachments == {}


def test_after_a_reconnect_nothing_is_lost_or_doubled(stand_in: StandIn, client: Client, screen: Screen) -> None:
    attachment = client.attach("ap-1", screen)
    for number in range(5):
        stand_in.log("ap-1", f"{number}a\n")
        assert run(attachment.drain(2 * number + 1, timeout=200))
        stand_in.cut_now()
        stand_in.log("ap-1", f"{number}b\n")
        assert run(attachment.drain(2 * number + 2, timeout=200))
    attachment.close()
    assert screen.lines == [f"{n}{x}\n" for n in range(5) for x in "ab"]
    assert stand_in.attached[0].from_seq == 0
    assert stand_in.attached[-1].from_seq > 0


def test_what_was_printed_is_shown_before_the_result(stand_in: StandIn, client: Client, screen: Screen) -> None:
    def says(x: int) -> int:
        stand_in.log("ap-1", f"says {x}\n")
        stand_in.log_seq += 1
        return x

    stand_in.functions["says"] = says
    attachment = client.attach("ap-1", screen)
    fn = Fn(client, "says", app_id="ap-1")
    for number in range(3):
        assert fn.remote(number) == number
        assert screen.lines[-1] == f"says {number}\n"
    assert asyncio.run(fn.remote.aio(7)) == 7
    assert screen.lines[-1] == "says 7\n"
    for result in fn.map(range(20)):
        assert f"says {result}\n" in screen.lines
    attachment.close()


def test_logs_that_lag_delay_a_result_only_so_long(
    stand_in: StandIn, client: Client, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen.slow.clear()
    attachment = client.attach("ap-1", screen)
    stand_in.log("ap-1", "x\n")
    assert not run(attachment.drain(5, timeout=0.05))
    assert not asyncio.run(attachment.drain(5, timeout=0.05))
    assert not run(attachment.drain(5, timeout=1000))  # once is enough
    screen.slow.set()
    wait_for(lambda: attachment.seq == 1)
    stand_in.log("ap-1", "y\n")
    assert run(attachment.drain(2, timeout=200))
    attachment.close()


def test_stored_entries_only(stand_in: StandIn, client: Client, screen: Screen) -> None:
    stand_in.log("ap-1", "one\n")
    attachment = client.attach("ap-1", screen, follow=False, hold=False)
    assert attachment.wait_ended(200)
    assert screen.lines == ["one\n"]
    attachment.close()


def test_closing_ends_the_thread_whatever_it_waits_for(stand_in: StandIn, client: Client, screen: Screen) -> None:
    attachment = client.attach("ap-1", screen)
    assert attachment.attached.wait(200)
    attachment.close()
    assert not attachment._thread.is_alive()
    stand_in.die()
    waiting = client.attach("ap-2", screen)
    waiting.close()
    assert not waiting._thread.is_alive()
    stand_in.start()


def test_an_error_of_the_screen_is_kept(stand_in: StandIn, client: Client) -> None:
    def broken(_message: Any) -> None:
        raise ValueError("no screen")

    stand_in.log("ap-1", "x\n")
    attachment = client.attach("ap-1", broken)
    assert attachment.wait_ended(200)
    assert repr(attachment.error) == "ValueError('no screen')"
    attachment.close()
