"""Starting, ending, output, and what a failed start says."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.containers import Containers, StartFailed
from intermodal.worker.containers.cgroups import Cgroup
from tests.integration.containers.conftest import PYTHON, drain, finish, line_of
from tests.integration.containers.traces import traces_of

pytestmark = pytest.mark.containers


@pytest.mark.parametrize(
    ("command", "code", "number", "reason"),
    [
        ("exit 0", 0, 0, "exited"),
        ("exit 1", 1, 0, "exited"),
        ("exit 127", 127, 0, "exited"),
        ("exit 200", 200, 0, "exited"),
        ("sh -c 'kill -SEGV $$'; exit $?", 139, signal.SIGSEGV, "exited"),
    ],
)
async def test_exit_codes(run, command, code, number, reason):
    ran = await run("sh", "-c", command)
    assert (ran.exit.code, ran.exit.signal, ran.exit.reason) == (code, number, reason)


async def test_a_crash_of_the_first_process_is_a_signal(python):
    ran = await python("import ctypes; ctypes.string_at(0)")
    assert (ran.exit.code, ran.exit.signal, ran.exit.reason) == (139, signal.SIGSEGV, "exited")


async def test_signals_reach_the_first_process(containers: Containers, launch):
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    running = await containers.start(launch(PYTHON, "-c", program))
    await line_of(running.stdout_fd)
    assert running.pid > 0
    assert running.exit is None
    running.signal(signal.SIGTERM)
    ran = await finish(running)
    assert (ran.exit.code, ran.exit.reason) == (3, "exited")


async def test_kill_ends_every_process(containers: Containers, launch):
    running = await containers.start(launch("sh", "-c", "sleep 1000 & setsid sleep 1000 & echo up; wait"))
    await line_of(running.stdout_fd)
    pids = running.cgroup.pids()
    assert len(pids) >= 4
    await running.kill()
    assert running.exit is not None
    assert running.exit.reason == "killed"
    assert running.exit.signal == signal.SIGKILL
    assert running.cgroup.pids() == set()
    running.signal(signal.SIGTERM)  # nobody is there: no error
    await running.close()
    await running.close()


async def test_output_comes_through_as_it_is_written(containers: Containers, launch):
    running = await containers.start(launch("sh", "-c", "echo one; echo two >&2; read x </dev/null; echo end"))
    ran = await finish(running)
    assert (ran.out, ran.err) == ("one\nend\n", "two\n")


async def test_much_output_waits_for_its_reader(containers: Containers, launch):
    running = await containers.start(launch("sh", "-c", "head -c 3000000 /dev/zero"))
    text = await asyncio.to_thread(drain, running.stdout_fd)
    assert len(text) == 3_000_000
    assert (await running.wait()).code == 0
    await running.close()


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["/no/such/program"], "no/such/program"),
        (["no-such-program"], "no-such-program"),
        (["/etc/passwd"], "may not be executed"),
    ],
)
async def test_a_program_that_cannot_start_says_so(containers: Containers, launch, argv, word):
    with pytest.raises(StartFailed, match=word):
        await containers.start(launch(*argv))
    assert list(containers.home.containers.iterdir()) == []


async def test_launches_that_cannot_work_say_so(containers: Containers, launch, tmp_path: Path):
    with pytest.raises(StartFailed, match=r"layer .* is missing"):
        await containers.start(launch("true", layers=[tmp_path / "nothing"]))
    with pytest.raises(StartFailed, match="at least one layer"):
        await containers.start(launch("true", layers=[]))
    with pytest.raises(StartFailed, match="no network 'moon'"):
        await containers.start(launch("true", network="moon"))
    with pytest.raises(StartFailed, match="no runtime 'moon'"):
        await containers.start(launch("true", runtime="moon"))
    with pytest.raises(StartFailed, match="needs a command"):
        await containers.start(launch())
    running = await containers.start(launch("sleep", "100", container_id="ta-twice"))
    with pytest.raises(StartFailed, match="there already"):
        await containers.start(launch("true", container_id="ta-twice"))
    await running.close()


async def test_an_id_can_be_used_again_after_its_end(run):
    for _ in range(3):
        assert (await run("true", container_id="ta-again")).exit.code == 0


async def test_a_cancelled_start_leaves_nothing(containers: Containers, launch):
    for delay in (0.0, 0.001, 0.003, 0.006, 0.01):
        task = asyncio.create_task(containers.start(launch("sleep", "1000")))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    while containers._unwanted or containers.running:  # its own clean-up goes on in the background
        await asyncio.sleep(0.01)
    assert list(containers.home.containers.iterdir()) == []


async def test_a_hundred_at_once(containers: Containers, launch):
    async def one(number: int) -> str:
        ran = await finish(await containers.start(launch("echo", str(number))))
        return ran.out.strip()

    assert await asyncio.gather(*(one(number) for number in range(100))) == [str(number) for number in range(100)]


async def test_marks_say_where_the_time_went(containers: Containers, launch):
    running = await containers.start(launch("true"))
    names = list(running.marks)
    assert names == ["turn", "slot", "overlay", "config", "local ports", "crun"]
    assert list(running.marks.values()) == sorted(running.marks.values())
    await running.close()


async def test_close_takes_running_containers_along(tmp_path: Path, launch):
    containers = Containers(Home(tmp_path / "home"))
    await containers.open()
    for _ in range(3):
        await containers.start(launch("sleep", "1000"))
    await containers.close()
    assert traces_of(containers.home.path) == []


async def test_close_waits_for_starts_on_their_way(tmp_path: Path, launch):
    containers = Containers(Home(tmp_path / "home"))
    await containers.open()
    tasks = [asyncio.create_task(containers.start(launch("sleep", "1000"))) for _ in range(6)]
    await asyncio.sleep(0.005)
    await containers.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(StartFailed, match="ending"):
        await containers.start(launch("true"))
    assert traces_of(containers.home.path) == []


async def test_a_runtime_that_is_not_there_is_refused_by_name(tmp_path: Path, monkeypatch):
    from intermodal.worker.containers import ContainersError

    containers = Containers(Home(tmp_path / "home"), runtime="moon")
    with pytest.raises(ContainersError, match="no runtime 'moon'; choose one of crun, runc, host"):
        await containers.open()
    await containers.close()


async def test_kill_ends_a_frozen_container(containers: Containers, launch):
    """By the control group's freezer: such processes notice nothing before they are thawed."""
    running = await containers.start(launch("sh", "-c", "echo up; sleep 1000"))
    await line_of(running.stdout_fd)
    freeze(running.cgroup)
    async with asyncio.timeout(200):
        await running.kill()
    assert running.exit is not None
    assert running.exit.reason == "killed"
    await running.close()


def freeze(cgroup: Cgroup) -> None:
    """Every process of the group stands still. Skips where there is no freezer."""
    if cgroup.v2:
        (cgroup.directories[0] / "cgroup.freeze").write_text("1")
        return
    if "freezer" not in cgroup.by_controller:
        pytest.skip("no freezer here")
    state = cgroup.by_controller["freezer"] / "freezer.state"
    state.write_text("FROZEN")
    while state.read_text().strip() != "FROZEN":
        os.sched_yield()
