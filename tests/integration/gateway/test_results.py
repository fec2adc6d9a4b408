"""Responses that took longer than a request may: kept on the disk, fetched as often as anybody likes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from intermodal.server.gateway import kept
from tests.integration.gateway.conftest import MakeRig, Rig
from tests.integration.gateway.test_http import request, responses

SIZE = 40_000_000  # more than all buffers on the way
LARGE = 5_000_000  # more than what is sent in one go


class Slow:
    """An app that answers when it may."""

    def __init__(self, size: int = SIZE) -> None:
        self.may_begin, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_end.set()
        self.size = size
        self.gone = asyncio.Event()

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.may_begin.wait()
            await send({"type": "http.response.start", "status": 201, "headers": [(b"x-kind", b"large")]})
            for _ in range(self.size // 1_000_000):
                await send({"type": "http.response.body", "body": b"r" * 1_000_000, "more_body": True})
            await self.may_end.wait()
            await send({"type": "http.response.body", "body": b"end"})
        except (OSError, asyncio.CancelledError):
            self.gone.set()
            raise


async def moved(rig: Rig) -> str:
    """A request that takes too long: where its result will be."""
    answer = await rig.raw(request("GET", "/slow"))
    assert answer.startswith(b"HTTP/1.1 303")
    rig.be_patient()
    return next(line[10:] for line in answer.decode().split("\r\n") if line.startswith("location: "))


async def until_over(rig: Rig, where: str) -> kept.Kept:
    result = rig.gateway._results._results[where.rpartition("=")[2]].kept
    while result.state == kept.RUNNING:
        await asyncio.sleep(0.01)
    return result


async def test_a_large_one_is_kept_and_outlives_the_server(make_rig: MakeRig) -> None:
    app = Slow(LARGE)
    rig: Rig = await make_rig(app, redirect_after=0.3)
    where = await moved(rig)
    app.may_begin.set()
    for _ in range(2):
        [(status, body)] = responses(await rig.raw(request("GET", where)), [b"GET"])
        assert (status, len(body), body[-4:]) == (201, LARGE + 3, b"rend")
    await until_over(rig, where)
    await rig.close()
    again: Rig = await make_rig(app, home=rig.home)
    answer = await again.raw(request("GET", where))
    assert b"x-kind: large" in answer[:200]
    [(status, body)] = responses(answer, [b"GET"])
    assert (status, len(body)) == (201, LARGE + 3)


async def test_a_slow_reader_of_a_result_costs_no_memory(make_rig: MakeRig) -> None:
    app = Slow()
    rig: Rig = await make_rig(app, redirect_after=0.3)
    where = await moved(rig)
    app.may_begin.set()
    await until_over(rig, where)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1 << 16)
    writer.write(request("GET", where))
    await reader.readuntil(b"\r\n\r\n")
    (fetch,) = rig.gateway._results._results[where.rpartition("=")[2]].fetches
    before = -1
    while before != fetch._at:  # until it does not go on any more
        before = fetch._at
        await asyncio.sleep(0.2)
    assert fetch._at < SIZE // 2
    rest = await reader.read(-1)
    assert len(rest) > SIZE
    writer.close()


async def test_one_that_streams_is_fetched_as_it_comes(make_rig: MakeRig) -> None:
    app = Slow(1_000_000)
    app.may_end.clear()
    rig: Rig = await make_rig(app, redirect_after=0.3)
    where = await moved(rig)
    app.may_begin.set()
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(request("GET", where))
    seen = b""
    while seen.count(b"r") < 1_000_000:
        seen += await asyncio.wait_for(reader.read(1 << 16), 200)
    app.may_end.set()
    assert (await reader.read(-1)).endswith(b"3\r\nend\r\n0\r\n\r\n")
    writer.close()


async def test_what_a_restart_interrupts_is_said(make_rig: MakeRig) -> None:
    app = Slow()
    rig: Rig = await make_rig(app, redirect_after=0.3)
    where = await moved(rig)
    await rig.close()
    again: Rig = await make_rig(app, home=rig.home)
    answer = await again.raw(request("GET", where))
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"restarted" in answer


async def test_one_that_is_too_large(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "ONE_BYTES", 2_500_000)
    app = Slow()
    rig: Rig = await make_rig(app, redirect_after=0.3)
    where = await moved(rig)
    app.may_begin.set()
    await asyncio.wait_for(app.gone.wait(), 200)  # the app need not go on
    broken = await rig.raw(request("GET", where))
    assert broken.startswith(b"HTTP/1.1 201")
    assert not broken.endswith(b"0\r\n\r\n")


async def test_a_full_disk_is_said(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SPARE_BYTES", 1 << 60)
    app = Slow()
    rig: Rig = await make_rig(app, redirect_after=0.3)
    where = await moved(rig)
    app.may_begin.set()
    await asyncio.wait_for(app.gone.wait(), 200)
    answer = await rig.raw(request("GET", where))
    assert not answer.endswith(b"0\r\n\r\n")
    assert b"end" not in answer
