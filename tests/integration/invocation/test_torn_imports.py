"""An input that is cancelled while it imports: what is there by halves is not used for other inputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modal._protocol.messages.function import Autoscaler
from modal.exception import RemoteError
from tests.integration.invocation.rig import Rig, rig
from tests.integration.invocation.test_answers import runs, until

MODULE = """
import os

def import_it(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    import outer
    return os.getpid()

def swallow(path):
    try:
        import_it(path)
    except BaseException:
        pass
    return os.getpid()
"""
OUTER = """
import inner
"""
INNER = """
import os, time
if not os.path.exists(os.environ["TMPDIR"] + "/again"):
    open(os.environ["TMPDIR"] + "/again", "w").close()
    time.sleep(3600)
"""


@pytest.fixture
async def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with rig() as started:
        for name, text in (("program", MODULE), ("outer", OUTER), ("inner", INNER)):
            started.write(name, text)
        for name in ("import_it", "swallow"):
            started.function(f"fu-{name}", "program", name, autoscaler=Autoscaler(max_containers=1))
        yield started


@pytest.mark.parametrize("name", ["import_it", "swallow"])
async def test_the_next_input_has_another_container(it: Rig, tmp_path: Path, name: str) -> None:
    path = tmp_path / "runs"
    call = it.call(f"fu-{name}").remote.aio
    first = asyncio.create_task(call(str(path)))
    await until((tmp_path / "again").exists)
    next_one = asyncio.create_task(call(str(path)))
    (container,) = it.invocation.dispatch.containers.values()
    await until(lambda: bool(container.tokens))
    it.invocation.calls.cancel_inputs([next(iter(container.tokens.values()))])
    with pytest.raises(RemoteError, match="cancelled"):
        await first
    pid = await next_one
    assert str(pid) in runs(path)
    assert len(runs(path)) == 2
    await until(lambda: "while it imported outer" in "".join(entry.text for entry in it.logs))


async def test_a_cancellation_elsewhere_costs_no_container(it: Rig, tmp_path: Path) -> None:
    it.write("plain", "import os, time\ndef f(seconds):\n    time.sleep(seconds)\n    return os.getpid()\n")
    it.function("fu-plain", "plain", "f", autoscaler=Autoscaler(max_containers=1))
    call = it.call("fu-plain").remote.aio
    pid = await call(0)
    slow = asyncio.create_task(call(3600))
    (container,) = it.invocation.dispatch.containers.values()
    await until(lambda: bool(container.tokens))
    it.invocation.calls.cancel_inputs(list(container.tokens.values()))
    with pytest.raises(RemoteError):
        await slow
    assert await call(0) == pid
