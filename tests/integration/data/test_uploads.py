"""Uploads of large files to a volume from elsewhere, interrupted."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

import modal
from modal import _volume_upload
from modal._exchange import Exchange
from modal._protocol.messages.call import BlobChunk
from tests.integration.data.conftest import ServerProcess

MIB = 1 << 20
SIZE = 24 * MIB


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The object store cannot be reached by its path."""
    monkeypatch.setattr(_volume_upload.os, "access", lambda *_args: False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(SIZE))
    return path


class Wire:
    """Counts the chunks that are sent, and does something before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = 0
        self.before: dict[int, Any] = {}
        send = Exchange.send

        async def counting(exchange: Exchange, message: Any) -> None:
            if isinstance(message, BlobChunk):
                self.before.pop(self.sent, lambda: None)()
                self.sent += len(message.data) // MIB
            await send(exchange, message)

        monkeypatch.setattr(Exchange, "send", counting)


def restart(server: ServerProcess) -> None:
    server.kill()
    server.start()


def upload(source: Path) -> modal.Volume:
    volume = modal.Volume.from_name(f"v-{uuid.uuid4().hex}", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch.put_file(source, "/large")
    return volume


def check(volume: modal.Volume, source: Path) -> None:
    digest = hashlib.sha256()
    for part in volume.read_file("/large"):
        digest.update(part)
    assert digest.digest() == hashlib.sha256(source.read_bytes()).digest()


def test_an_interrupted_upload_goes_on_where_it_was(
    server: ServerProcess, source: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(monkeypatch)
    wire.before = {10: lambda: restart(server), 20: lambda: restart(server)}
    check(upload(source), source)
    assert wire.before == {}
    assert SIZE // MIB < wire.sent <= SIZE // MIB + 2 * 3  # again only what was on its way: a window and a chunk


def test_another_command_goes_on_with_what_one_has_begun(
    server: ServerProcess, source: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(monkeypatch)

    def interrupt() -> None:
        raise KeyboardInterrupt

    wire.before = {12: interrupt}
    with pytest.raises(KeyboardInterrupt):
        upload(source)
    restart(server)
    check(upload(source), source)
    assert SIZE // MIB <= wire.sent <= SIZE // MIB + 3


def test_a_beginning_that_was_damaged_is_sent_again(
    server: ServerProcess, source: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(monkeypatch)

    def damage() -> None:
        server.kill()
        (part,) = (server.home.volumes / "objects" / ".incoming").glob("begun-*")
        part.write_bytes(bytes(part.stat().st_size))
        server.start()

    wire.before = {10: damage}
    check(upload(source), source)
    assert wire.sent > SIZE // MIB + 9
