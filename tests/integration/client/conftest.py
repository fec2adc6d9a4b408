from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modal._client import Client

from .stand_in import StandIn


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path is short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="client-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def stand_in(short_dir: Path) -> Iterator[StandIn]:
    server = StandIn(short_dir)
    yield server
    server.close()


@pytest.fixture
def client(stand_in: StandIn) -> Iterator[Client]:
    made = Client(stand_in.address)
    yield made
    made.close()


@pytest.fixture
def events() -> Iterator[list[tuple[str, Any]]]:
    """What the SDK tells of its work."""
    from modal import _events

    told: list[tuple[str, Any]] = []

    class Recorder(_events.Sink):
        def notice(self, text: str) -> None:
            told.append(("notice", text))

        def map_progress(self, key: str, name: str, done: int, total: int) -> None:
            told.append(("map", (done, total)))

    before = _events.install(Recorder())
    yield told
    _events.install(before)


Register = Callable[..., Any]
