"""The server as a process: killed, started twice, on directories that are not its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from intermodal import lifecycle
from intermodal.home import Home
from intermodal.server.store.calls import CallStore
from intermodal.server.store.database import Database
from modal._protocol import blocking
from modal._protocol.errors import WireError
from modal._protocol.messages.call import Spawn
from modal._protocol.messages.wire import Done
from tests.integration.server.peers import PaperWorker, build_image, client, deploy, hello

ROUNDS = 4
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(home: Home) -> Iterator[Start]:
    """Start a server and wait until it serves."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        read, write = os.pipe()
        child = subprocess.Popen(
            [sys.executable, "-m", "intermodal.server", "--no-worker", "--ready-fd", str(write), *arguments],
            env={**os.environ, "INTERMODAL_HOME": str(home.path)},
            pass_fds=[write],
            stderr=subprocess.PIPE,
        )
        running.append(child)
        os.close(write)
        with open(read, "rb") as said:
            said.readline()
        return child

    yield begin
    for child in running:
        child.kill()
        child.communicate()


async def test_no_acknowledged_input_is_lost_when_the_server_is_killed(home: Home, start: Start) -> None:
    child = start()
    worker = PaperWorker(home)
    await worker.start()
    connection = await client(home)
    function_id = (await deploy(connection, await build_image(connection))).functions[0].function_id
    acknowledged: set[tuple[str, int]] = set()
    for number in range(ROUNDS):
        sync = blocking.connect(home.address, hello("client"))
        moment = None
        index = 0
        try:
            while True:
                indexes = list(range(index, index + 10))
                sync.request(Spawn(f"fc-R{number}", function_id, indexes, [b"x" * 100] * 10, last=False), Done)
                acknowledged.update((f"fc-R{number}", each) for each in indexes)
                index += 10
                if moment is None:  # in the middle of the stream of spawns
                    moment = threading.Timer(0.1 + 0.07 * number, child.kill)
                    moment.start()
        except WireError:
            pass
        sync.close()
        child.wait()
        child = start()
    child.terminate()
    assert child.wait() == 0
    database = await Database.open(home.store)
    found = {(row.call_id, row.index) for row in await CallStore(database).pending(function_id, 0, 1_000_000)}
    assert (await database.row("PRAGMA integrity_check"))[0] == "ok"
    await database.close()
    assert len(acknowledged) >= 10 * ROUNDS
    assert acknowledged <= found


def test_a_second_server_on_one_directory_is_refused(home: Home, start: Start) -> None:
    first = start()
    second = start()
    assert second.wait() == 75
    assert second.stderr is not None
    said = second.stderr.read().decode()
    assert f"another server (process {first.pid}) uses {home.path}" in said
    assert "intermodal down" in said
    assert lifecycle.answers(home)


def test_a_killed_servers_traces_stop_nobody(home: Home, start: Start) -> None:
    first = start()
    first.kill()
    first.wait()
    assert home.socket.exists()
    assert not lifecycle.answers(home)
    start()
    assert lifecycle.answers(home)


def foreign(home: Home) -> None:
    (home.path / "thesis.tex").write_text("…")


def another_program(home: Home) -> None:
    other = sqlite3.connect(home.store)
    other.execute("CREATE TABLE songs (name)")
    other.close()


def newer(home: Home) -> None:
    other = sqlite3.connect(home.store)
    other.execute("PRAGMA application_id = 1229803332")
    other.execute("PRAGMA user_version = 77")
    other.close()


def damaged(home: Home) -> None:
    home.store.write_bytes(b"SQLite format 3\0" + os.urandom(8192))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (foreign, "no state directory of Intermodal.*thesis.tex.*INTERMODAL_HOME"),
        (another_program, "database of another program"),
        (newer, "newer Intermodal .schema 77"),
        (damaged, "damaged"),
    ],
)
def test_a_directory_that_is_not_ours_is_refused(home: Home, spoil: Callable[[Home], None], said: str) -> None:
    home.path.mkdir()
    spoil(home)
    before = sorted(path.name for path in home.path.iterdir())
    with pytest.raises(lifecycle.Failed, match=said):
        lifecycle.up(home)
    if spoil is foreign:
        after = {path.name for path in home.path.iterdir()} - set(before)
        assert after <= {"start.lock", "server.log"}


def test_without_its_store_a_directory_starts_anew(home: Home, start: Start) -> None:
    start().kill()
    for path in home.path.glob("store.sqlite*"):
        path.unlink()
    (home.path / "crun-binary").touch()
    start()
    assert lifecycle.answers(home)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    done = subprocess.run(
        [sys.executable, "-m", "intermodal", "up", "--quiet"],
        env={**os.environ, "INTERMODAL_HOME": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "INTERMODAL_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_terminated_servers_leave_no_socket(home: Home, start: Start) -> None:
    child = start()
    child.terminate()
    assert child.wait() == 0
    assert not home.socket.exists()
    assert lifecycle.holder(home.lock) is None


def test_a_home_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    home = Home(tmp_path / ("x" * 120))
    child = subprocess.Popen(
        [sys.executable, "-m", "intermodal.server", "--no-worker", "--ready-fd", "1"],
        env={**os.environ, "INTERMODAL_HOME": str(home.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert home.socket.parent != home.path
        assert home.socket.parent.stat().st_mode & 0o777 == 0o700
        assert lifecycle.answers(home)
    finally:
        child.terminate()
        child.communicate()
        home.socket.parent.rmdir()
