"""Server and worker as background processes of this machine: started, found, stopped.

The server answers on its socket or it does not: that is how it is found. Locks on files in the state
directory say which processes belong to it, also when one of them was killed. The server keeps the
worker running (`intermodal.server.services.local_worker`).
"""

from __future__ import annotations

import fcntl
import os
import platform
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intermodal import processes
from intermodal.home import Home
from intermodal.logfile import open_log
from intermodal.processes import ProcessId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modal._protocol.blocking import Connection

CONNECT_SECONDS = 5.0
STARTS = 5  # attempts, where the server is killed while it starts
START_PAUSE = 0.5  # seconds before the second of them; before each other one so much more
START_SECONDS = 60.0  # that a server may take to answer; a large store that needs a migration takes a while
WORKER_SECONDS = 15.0
STOP_SECONDS = 90.0  # that server and worker have to stop in order
END_SECONDS = 10.0  # that a process has to end after SIGTERM
CLEAN_SECONDS = 120.0
TAIL_LINES = 15
_KILLED = "killed"
_ENDING = "another server"  # what a start says while the one before still ends


class Failed(Exception):
    """What was asked for could not be done; the text says why and what to do next."""


def connect(home: Home) -> Connection | None:
    """A connection to the server of this directory, None where none answers. Raises Fault where it refuses us."""
    from modal._protocol import blocking
    from modal._protocol.errors import WireError
    from modal._protocol.frames import VERSION_MAX, VERSION_MIN
    from modal._protocol.messages.wire import Hello

    if not home.socket.exists():
        return None
    hello = Hello("client", VERSION_MIN, VERSION_MAX, "", platform.python_version())
    try:
        return blocking.connect(home.address, hello, timeout=CONNECT_SECONDS)
    except WireError:
        return None


def status(home: Home, *, wait_worker: float = 0.0, disk: bool = True) -> dict[str, Any] | None:
    """What the server says of itself, None where none answers."""
    from modal._protocol.messages.secret import ServerStatus, ServerStatusGet

    connection = connect(home)
    if connection is None:
        return None
    try:
        answer = connection.request(ServerStatusGet(wait_worker, disk), ServerStatus, timeout=wait_worker + 30.0)
        return answer.status
    finally:
        connection.close()


def up(home: Home) -> tuple[dict[str, Any], bool]:
    """Have a server and a worker run; their status, and whether the server was started just now. Raises Failed."""
    from modal._protocol.errors import WireError

    started = False
    found = None
    for attempt in range(STARTS):  # it may be killed right after it has answered
        time.sleep(attempt * START_PAUSE)
        if not answers(home):
            with _starting(home):
                if not answers(home):  # somebody else may have been quicker
                    _start_server(home)
                    started = True
        try:
            found = status(home, wait_worker=WORKER_SECONDS, disk=False)
        except WireError:
            continue
        if found is not None:
            break
    if found is None:
        raise Failed(f"the server ended right after its start, {STARTS} times in a row:\n{tail(home.server_log)}")
    if not found["workers"] and found["local_worker"] is not None:
        worker = found["local_worker"]
        ended = (
            f"it ended {worker['failures']} times ({worker['last_exit']})" if worker["failures"] else worker["state"]
        )
        raise Failed(
            f"the server runs, but its worker does not ({ended}). `intermodal doctor` says what this machine lacks. "
            f"The end of {home.worker_log}:\n{tail(home.worker_log)}"
        )
    return found, started


def answers(home: Home) -> bool:
    """Whether a server answers on the directory's socket."""
    connection = connect(home)
    if connection is None:
        return False
    connection.close()
    return True


def down(home: Home, keep_containers: bool = False) -> list[str]:
    """Stop server and worker and clean up what they (or ones that were killed) left. What was done, in words.

    Raises Failed where something could not be ended.
    """
    done = []
    server, worker = holder(home.lock), holder(home.worker_lock)
    in_order = _ask_to_stop(home, keep_containers)
    if server is not None:
        if not (in_order and processes.wait_end(server, STOP_SECONDS)) and not processes.end(server, END_SECONDS):
            raise Failed(f"the server (process {server.pid}) does not end")
        done.append(f"stopped the server (process {server.pid})")
    left = holder(home.worker_lock)  # by now none, if all went in order
    if left is not None and not processes.end(left, END_SECONDS):
        raise Failed(f"the worker (process {left.pid}) does not end")
    if worker is not None:
        done.append(f"stopped the worker (process {worker.pid})")
    if not keep_containers:
        if (left is not None or not in_order) and _was_used(home.worker_lock):
            _clean(home)
            done.append("cleaned up what was left")
        _forget(home.worker_lock)
    if not in_order:
        home.socket.unlink(missing_ok=True)
    return done


def holder(lock: Path) -> ProcessId | None:
    """The process that holds a lock file (its first words are its pid), None where nobody does."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return processes.parse(os.pread(descriptor, 100, 0).decode(errors="replace"))
    finally:
        os.close(descriptor)
    return None


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, indented."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 64 * 1024))
            found = file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        found = ["(there is none)"]
    return "\n".join(f"  {line}" for line in found)


@contextmanager
def _starting(home: Home) -> Iterator[None]:
    """One start at a time: a second one waits for the first."""
    try:
        home.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(home.path / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Failed(
            f"{home.path} cannot be used ({error.strerror}): set INTERMODAL_HOME to a directory that you may write"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _start_server(home: Home) -> None:
    deadline = time.monotonic() + START_SECONDS
    killed = 0
    while True:
        said = _spawn_server(home, deadline)
        if said == "ready":
            return
        if said == _KILLED:
            killed += 1
            if killed < STARTS:
                time.sleep(killed * START_PAUSE)
                continue  # nothing speaks against another one
            raise Failed(f"the server was killed {killed} times while it started: `dmesg` may say why")
        before = holder(home.lock)
        if not said.startswith(f"error: {_ENDING}"):
            reason = said.removeprefix("error: ") or f"it ended:\n{tail(home.server_log)}"
            raise Failed(f"the server did not start: {reason}")
        if before is not None and not processes.wait_end(before, END_SECONDS):  # it may be about to end
            raise Failed(
                f"the server (process {before.pid}) holds {home.path} but does not answer: "
                "stop it with `intermodal down`, then try again"
            )
        if answers(home):
            return


def _spawn_server(home: Home, deadline: float) -> str:
    """Start a server; what it says of its start: "ready", "error: …", "killed", or "" when it ended without a word."""
    log = open_log(home.server_log)
    read, write = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "intermodal.server", "--ready-fd", str(write)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[write],
            start_new_session=True,
            cwd="/",
            env={**os.environ, "INTERMODAL_HOME": str(home.path)},
        )
    finally:
        os.close(log)
        os.close(write)
    child.returncode = 0  # it is nobody's child: no warning when this process ends before it
    said = b""
    try:
        while not said.endswith(b"\n"):
            if not select.select([read], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Failed(f"the server did not answer within {START_SECONDS:.0f} s: see {home.server_log}")
            part = os.read(read, 65536)
            if not part:
                if os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) < 0:
                    return _KILLED
                break
            said += part
    finally:
        os.close(read)
    return said.decode(errors="replace").strip()


def _ask_to_stop(home: Home, keep_containers: bool) -> bool:
    """Whether the server has stopped its worker in order."""
    from modal._protocol.errors import Fault, WireError
    from modal._protocol.messages.secret import ServerStop
    from modal._protocol.messages.wire import Done

    connection = connect(home)
    if connection is None:
        return False
    try:
        connection.request(ServerStop(keep_containers), Done, timeout=STOP_SECONDS)
    except (Fault, WireError, TimeoutError):
        return False
    finally:
        connection.close()
    return True


def _was_used(lock: Path) -> bool:
    """Whether somebody held the lock since it was forgotten: there may be traces of a worker that was killed."""
    try:
        return lock.stat().st_size > 0
    except FileNotFoundError:
        return False


def _forget(lock: Path) -> None:
    """Nothing is left of whoever held this lock."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
    except BlockingIOError:
        pass  # somebody has just started
    finally:
        os.close(descriptor)


def _clean(home: Home) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "intermodal.worker", "--clean"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=CLEAN_SECONDS,
            env={**os.environ, "INTERMODAL_HOME": str(home.path)},
        )
    except subprocess.TimeoutExpired:
        raise Failed(
            f"cleaning up did not end within {CLEAN_SECONDS:.0f} s: `python -m intermodal.worker --clean`"
        ) from None
    if done.returncode:
        raise Failed(f"cleaning up failed:\n{done.stderr.strip() or done.stdout.strip()}")
