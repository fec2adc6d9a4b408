"""Uploads of large files to a volume from elsewhere, interrupted."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

import modal
from modal import _volume_download, _volume_transfer
from modal._client import Client
from modal._exchange import Exchange
from modal._protocol.messages.call import BlobChunk
from modal._protocol.messages.volume import DIRECTORY, SYMLINK, Entry, VolumeRead
from tests.integration.data.conftest import ServerProcess

MIB = 1 << 20
SIZE = 24 * MIB


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The object store cannot be reached by its path."""
    monkeypatch.setattr(_volume_transfer.os, "access", lambda *_args: False)


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


@pytest.mark.parametrize("size", [10, SIZE])
def test_a_file_that_is_written_to_meanwhile_is_read_again(
    server: ServerProcess, tmp_path: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    source = tmp_path / "growing"
    source.write_bytes(b"a" * size)
    missing = _volume_transfer.Transfer._missing
    grown = []

    def grow(transfer: Any, digests: list[str]) -> Any:
        if not grown:
            grown.append(True)
            with source.open("ab") as file:
                file.write(b"more")
        return missing(transfer, digests)

    monkeypatch.setattr(_volume_transfer.Transfer, "_missing", grow)
    volume = upload(source)
    check(volume, source)
    assert volume.listdir("/large")[0].size == size + 4


def test_a_file_that_never_rests_is_refused(
    server: ServerProcess, tmp_path: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "growing"
    source.write_bytes(b"a")
    missing = _volume_transfer.Transfer._missing

    def grow(transfer: Any, digests: list[str]) -> Any:
        with source.open("ab") as file:
            file.write(b"more")
        return missing(transfer, digests)

    monkeypatch.setattr(_volume_transfer.Transfer, "_missing", grow)
    with pytest.raises(modal.exception.InvalidError, match="again and again"):
        upload(source)


def test_two_files_for_one_place(server: ServerProcess, tmp_path: Path, elsewhere: None) -> None:
    volume = modal.Volume.from_name(f"v-{uuid.uuid4().hex}", create_if_missing=True)
    with pytest.raises(modal.exception.InvalidError, match="two different files"), volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"1"), "/x")
        batch.put_file(io.BytesIO(b"2"), "/x")


def test_progress_is_told_while_a_large_file_goes_up(server: ServerProcess, source: Path, elsewhere: None) -> None:
    seen: list[tuple[int, int, int, int]] = []
    volume = modal.Volume.from_name(f"v-{uuid.uuid4().hex}", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch._progress = lambda *now: seen.append(now)
        batch.put_file(source, "/large")
    assert len(seen) == SIZE // MIB + 1
    assert seen[-1] == (1, 1, SIZE, SIZE)
    assert seen[0] == (0, 1, MIB, SIZE)


def test_a_large_directory_of_a_network_file_system(server: ServerProcess, tmp_path: Path) -> None:
    root = tmp_path / "many"
    (root / "empty").mkdir(parents=True)
    for number in range(1500):
        (root / f"{number}").write_text(str(number))
    (root / "large").write_bytes(b"l" * (5 * MIB))
    (root / "large").chmod(0o751)
    os.utime(root / "large", (1000, 1000))
    (root / "link").symlink_to("large")
    told: list[int] = []
    nfs = modal.NetworkFileSystem.from_name(f"n-{uuid.uuid4().hex}", create_if_missing=True)
    nfs.add_local_dir(root, "/to", progress_cb=lambda *, advance: told.append(advance))
    assert sum(told) == sum(path.stat().st_size for path in root.iterdir() if path.is_file() and not path.is_symlink())
    entries = {entry.path: entry for entry in nfs.listdir("/to")}
    assert sorted(entries) == sorted(os.listdir(root))
    assert (entries["empty"].type.name, entries["link"].type.name) == ("DIRECTORY", "SYMLINK")
    assert (entries["large"].size, entries["large"].mtime) == (5 * MIB, 1000)
    assert b"".join(nfs.read_file("/to/1234")) == b"1234"
    size = 40 * MIB
    assert nfs.write_file("/written", io.BytesIO(b"w" * size)) == size  # too large to be kept in memory
    assert nfs.listdir("/written")[0].size == size
    assert sum(map(len, nfs.read_file("/written"))) == size


@pytest.mark.parametrize("noun", [modal.Volume, modal.NetworkFileSystem])
def test_small_files_come_down_together(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noun: Any
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(1200):
        (source / f"{number}").write_text(str(number))
    (source / "large").write_bytes(b"l" * (2 * MIB))
    files = noun.from_name(f"d-{uuid.uuid4().hex}", create_if_missing=True)
    if noun is modal.Volume:
        with files.batch_upload() as batch:
            batch.put_directory(source, "/d")
    else:
        files.add_local_dir(source, "/d")
    monkeypatch.setattr(
        _volume_download.Download, "_directory", property(lambda _self: "", lambda _self, _value: None), raising=False
    )
    asked: list[Any] = []
    open_ = Client.open

    async def noting(client: Client, message: Any, **options: Any) -> Any:
        asked.append(message)
        return await open_(client, message, **options)

    monkeypatch.setattr(Client, "open", noting)
    found = _volume_download.list_entries(files, "/d", True)
    names = [entry.path.rpartition("/")[2] for entry in found]
    target = tmp_path / "target"
    target.mkdir()
    wanted = [(entry, f"d/{name}", str(target / name)) for entry, name in zip(found, names, strict=True)]
    _volume_download.Download(files, False).fetch(wanted)
    assert sorted(os.listdir(target)) == sorted(os.listdir(source))
    for name in os.listdir(source):
        assert (target / name).read_bytes() == (source / name).read_bytes()
        assert (target / name).stat().st_mtime_ns == (source / name).stat().st_mtime_ns
    assert [message.path for message in asked if isinstance(message, VolumeRead)] == ["d/large"]
    # One that is gone by now is named, as before.
    (target / "7").unlink()
    (target / "8").unlink()
    files.remove_file("/d/7")
    with pytest.raises(modal.exception.NotFoundError, match="d/7"):
        _volume_download.Download(files, True).fetch(wanted)


def test_a_link_that_came_with_an_earlier_download_leads_nothing_out(server: ServerProcess, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = str(tmp_path / "target")
    volume = modal.Volume.from_name(f"l-{uuid.uuid4().hex}", create_if_missing=True)

    def fetch(force: bool) -> None:
        found = _volume_download.list_entries(volume, "/", True)
        wanted = [(entry, entry.path, f"{target}/{entry.path}") for entry in found]
        _volume_download.Download(volume, force).fetch(wanted, target)

    with volume.batch_upload() as batch:
        batch._sources.others += [
            Entry("x", SYMLINK, 0o777, content="../outside"), Entry("private", DIRECTORY, 0o750)
        ]  # fmt: skip
    fetch(False)
    fetch(False)  # the same link is in nobody's way
    assert os.readlink(f"{target}/x") == "../outside"
    assert os.stat(f"{target}/private").st_mode & 0o777 == 0o750
    volume.remove_file("x")
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"written"), "x/deep/file")
    with pytest.raises(modal.exception.InvalidError, match="target/x is a link"):
        fetch(True)
    assert os.listdir(outside) == []
    os.unlink(f"{target}/x")
    fetch(False)
    assert (tmp_path / "target/x/deep/file").read_text() == "written"
