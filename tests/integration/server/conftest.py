"""A server with real sockets on a temporary home, and a worker that only speaks the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.server.main import Options, Server
from tests.integration.server.peers import PaperWorker


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
async def server(home: Home) -> AsyncIterator[Server]:
    made = Server(home, Options(worker=False, grace=2.0))
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def worker(server: Server) -> AsyncIterator[PaperWorker]:
    made = PaperWorker(server.home)
    await made.start()
    yield made
    made.connection.close()
