"""Many at the same time, or one alone."""

from __future__ import annotations

import asyncio

from intermodal.server.services.sharing import Sharing


async def test_one_is_alone_and_many_are_not() -> None:
    sharing = Sharing()
    said: list[str] = []
    go_on = asyncio.Event()

    async def together(name: str) -> None:
        async with sharing.together():
            said.append(f"{name} begins")
            await go_on.wait()
        said.append(f"{name} ends")

    async def alone() -> None:
        async with sharing.alone():
            said.append("alone")
            await asyncio.sleep(0)
            said.append("over")

    tasks = [asyncio.create_task(together("a")), asyncio.create_task(together("b"))]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(alone()))
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(together("c")))  # behind the one who wants to be alone
    for _ in range(5):
        await asyncio.sleep(0)
    assert said == ["a begins", "b begins"]
    go_on.set()
    await asyncio.gather(*tasks)
    assert set(said[2:4]) == {"a ends", "b ends"}
    assert said[4:] == ["alone", "over", "c begins", "c ends"]


async def test_whoever_is_cancelled_holds_nobody_up() -> None:
    sharing = Sharing()
    entered = asyncio.Event()

    async def together() -> None:
        async with sharing.together():
            entered.set()
            await asyncio.Event().wait()

    async def alone() -> None:
        async with sharing.alone():
            pass

    holding = asyncio.create_task(together())
    await entered.wait()
    waiting = asyncio.create_task(alone())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    async with sharing.together():
        pass
    holding.cancel()
    await asyncio.wait([holding])
    async with sharing.alone():
        pass
