"""`@enter` and `@exit` hooks that are coroutine functions, in classes whose methods are not, and vice versa."""

from __future__ import annotations

import pytest

from modal._client import Client
from modal._protocol.messages.function import MethodSpec
from tests.integration.client.calls import Fn
from tests.integration.invocation.rig import rig
from tests.integration.invocation.test_limits import lines, until

MODULE = """
import asyncio, pathlib, modal

app = modal.App()

def note(text):
    with open(pathlib.Path(__file__).with_name("notes"), "a") as file:
        file.write(text + "\\n")

class Both:
    @modal.enter()
    def first(self):
        self.seen = ["first"]

    @modal.enter()
    async def second(self):
        await asyncio.sleep(0)
        self.loop = asyncio.get_running_loop()
        self.lock = asyncio.Lock()
        await self.lock.acquire()
        self.seen.append("second")

    @modal.exit()
    async def last(self):
        assert asyncio.get_running_loop() is self.loop
        self.lock.release()
        note("last")

    @modal.exit()
    def very_last(self):
        note("very last")

@app.cls()
class Sync(Both):
    @modal.method()
    def f(self):
        asyncio.run(asyncio.sleep(0))  # has a loop of its own
        return self.seen

@app.cls()
class Async(Both):
    @modal.method()
    async def f(self):
        return self.seen
"""


@pytest.mark.parametrize(("name", "concurrent"), [("Sync", 0), ("Sync", 5), ("Async", 0), ("Async", 5)])
async def test_hooks_of_both_kinds(name: str, concurrent: int) -> None:
    async with rig() as it:
        it.write("both", MODULE)
        it.function(
            "fu-1", "both", name, is_class=True, methods=[MethodSpec("f", is_async=name == "Async")],
            concurrent_max=concurrent, max_inputs=1,
        )  # fmt: skip
        client = Client(it.address)
        assert await Fn(client, "fu-1", method="f").remote.aio() == ["first", "second"]
        await until(lambda: lines(it.source / "notes") == ["last", "very last"])
        client.close()
        assert not any("never awaited" in entry.text for entry in it.logs)
