"""The SDK's blocking and asyncio faces against a server in a process of its own, without containers."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import modal
from intermodal.home import Home
from modal._client import Client


class ServerProcess:
    """A server that tests may kill and start again."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it serves."""
        read, write = os.pipe()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "intermodal.server", "--no-worker", "--ready-fd", str(write)],
            env={**os.environ, "INTERMODAL_HOME": str(self.home.path)},
            pass_fds=[write],
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        with open(read, "rb") as said:
            said.readline()

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def kill(self) -> None:
        """SIGKILL."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        """In order."""
        assert self._child is not None
        self._child.terminate()
        assert self._child.wait() == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    made = ServerProcess(Home(tmp_path_factory.mktemp("data") / "home"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def client(server: ServerProcess) -> Iterator[Client]:
    made = Client(server.home.address)
    Client.set_current(made)
    yield made
    Client.set_current(None)
    made.close()


@pytest.fixture
def d() -> modal.Dict:
    return modal.Dict.from_name(f"d-{uuid.uuid4().hex}", create_if_missing=True)


@pytest.fixture
def q() -> modal.Queue:
    return modal.Queue.from_name(f"q-{uuid.uuid4().hex}", create_if_missing=True)


@pytest.fixture
def values(server: ServerProcess) -> Path:
    return server.home.values
