"""Trees on the worker's disk: what a container has changed is read from its upper directory, layers hold versions."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from intermodal.contents import Contents
from intermodal.worker.containers.overlay import remove_tree
from intermodal.worker.volumes import scan
from intermodal.worker.volumes.checkouts import Checkouts, Layer, _longest_chain, build_layer
from intermodal.worker.volumes.scan import Memo, Scan, memo_from_json, memo_to_json
from modal._protocol.messages.volume import CLEARED, DIRECTORY, FILE, REMOVED, SYMLINK, Entry
from modal._protocol.objects import hash_of, object_path, place, place_bytes

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts and trusted attributes need root")


def look(upper: Path, memo: Memo, objects: Contents) -> Scan:
    def merged() -> str:
        raise AssertionError("nothing was renamed")

    made = Scan(str(upper), memo, objects, merged)
    made.run()
    return made


def kinds(found: Scan) -> list[tuple[str, int]]:
    return [(entry.path, entry.kind) for entry in found.changes]


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    made = tmp_path / "upper"
    made.mkdir()
    return made


def test_first_scan_finds_all(upper: Path, objects: Contents) -> None:
    (upper / "d").mkdir()
    (upper / "d/x").write_text("content")
    (upper / "d/x").chmod(0o600)
    os.utime(upper / "d/x", ns=(5, 7))
    (upper / "l").symlink_to("/etc/passwd")
    os.mkfifo(upper / "fifo")
    found = look(upper, {}, objects)
    assert kinds(found) == [("d", DIRECTORY), ("d/x", FILE), ("l", SYMLINK)]
    entry = found.changes[1]
    assert entry[2:7] == (0o600, os.geteuid(), os.getegid(), 7, 7)
    assert Path(objects.path(entry.content)).read_text() == "content"
    assert found.changes[2].content == "/etc/passwd"


def test_only_what_changed_is_found_again(upper: Path, objects: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "FRESH", -1)
    (upper / "d").mkdir()
    for name in ("x", "y"):
        (upper / "d" / name).write_text(name)
    memo = look(upper, {}, objects).memo
    assert kinds(look(upper, memo, objects)) == []
    (upper / "d/x").chmod(0o755)
    assert kinds(look(upper, memo, objects)) == [("d/x", FILE)]
    (upper / "d/y").unlink()
    assert kinds(look(upper, memo, objects)) == [("d/y", REMOVED), ("d", DIRECTORY), ("d/x", FILE)]
    (upper / "d/x").unlink()
    (upper / "d").rmdir()
    assert kinds(look(upper, memo, objects)) == [("d", REMOVED)]


def test_a_file_of_this_moment_is_looked_at_again(upper: Path, objects: Contents) -> None:
    (upper / "x").write_text("one")
    memo = look(upper, {}, objects).memo
    assert memo["x"].fresh
    status = (upper / "x").stat()
    assert kinds(look(upper, memo, objects)) == []  # though not by its stamp
    (upper / "x").write_text("two")
    os.utime(upper / "x", ns=(status.st_atime_ns, status.st_mtime_ns))
    memo["x"] = memo["x"]._replace(stamp=scan.stamp_of((upper / "x").stat()))
    assert kinds(look(upper, memo, objects)) == [("x", FILE)]


def test_what_was_not_acknowledged_is_found_after_a_restart(upper: Path, objects: Contents) -> None:
    (upper / "x").write_text("one")
    (upper / "y").write_text("two")
    pending = look(upper, {}, objects)
    memo = memo_from_json(memo_to_json({}, pending.changes))
    (upper / "y").unlink()
    assert kinds(look(upper, memo, objects)) == [("y", REMOVED), ("x", FILE)]


@needs_root
def test_marks_of_overlayfs(upper: Path, objects: Contents) -> None:
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    (upper / "anew").mkdir()
    (upper / "anew/x").write_text("x")
    os.setxattr(upper / "anew", "trusted.overlay.opaque", b"y")
    found = look(upper, {}, objects)
    assert kinds(found) == [("anew", DIRECTORY), ("anew", CLEARED), ("anew/x", FILE), ("gone", REMOVED)]
    again = look(upper, found.memo, objects)
    assert ("anew", CLEARED) not in kinds(again)
    assert ("gone", REMOVED) not in kinds(again)


def test_holes_stay_holes(tmp_path: Path, objects: Contents) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    with path.open("rb") as file:
        digest, size = place(file.fileno(), str(objects.directory), 0o644, 5)
        assert hash_of(file.fileno()) == (digest, size)
    assert size == (64 << 20) + 3
    stored = Path(object_path(str(objects.directory), digest))
    assert stored.stat().st_size == size
    assert stored.stat().st_blocks * 512 < 1 << 20
    assert stored.read_bytes() == path.read_bytes()


def entry_of(objects: Contents, path: str, content: bytes, **attributes: Any) -> Entry:
    digest = place_bytes(content, str(objects.directory), 0o644, 5)
    return Entry(path, FILE, size=len(content), content=digest, mtime=5)._replace(**attributes)


def test_a_layer_has_content_and_attributes(tmp_path: Path, objects: Contents) -> None:
    entries = [
        Entry("d", DIRECTORY, 0o750, mtime=9_000_000_000),
        entry_of(objects, "d/x", b"one"),
        entry_of(objects, "d/y", b"one", mode=0o755, mtime=7),
        entry_of(objects, "d/z", b"one"),
        Entry("l", SYMLINK, 0o777, content="d/x"),
    ]
    root = tmp_path / "tree"
    root.mkdir()
    build_layer(str(root), entries, objects, over_another=False)
    x, y, z = ((root / "d" / name).stat() for name in "xyz")
    assert (root / "d/y").read_bytes() == b"one"
    assert x.st_ino == z.st_ino != y.st_ino
    assert (stat.S_IMODE(y.st_mode), y.st_mtime_ns, x.st_mtime_ns) == (0o755, 7, 5)
    assert (root / "d").stat().st_mtime_ns == 9_000_000_000
    assert os.readlink(root / "l") == "d/x"


@needs_root
def test_removals_are_marked_where_there_is_something_to_hide(tmp_path: Path, objects: Contents) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    changes = [Entry("d", REMOVED), Entry("d/x", REMOVED), Entry("e", DIRECTORY, 0o755), Entry("e/x", REMOVED)]
    build_layer(str(root), changes, objects, over_another=True)
    assert stat.S_ISCHR((root / "d").stat().st_mode)
    assert stat.S_ISCHR((root / "e/x").stat().st_mode)


def test_the_way_that_leads_furthest_is_taken() -> None:
    layers = [Layer(0, 4, 9), Layer(4, 5, 1), Layer(5, 7, 1), Layer(4, 7, 2), Layer(8, 9, 1)]
    assert _longest_chain(layers) == [Layer(0, 4, 9), Layer(4, 7, 2)]
    assert _longest_chain([]) == []


class Server:
    """A volume whose every version adds a file."""

    def __init__(self, objects: Contents) -> None:
        self.version = 0
        self.oldest = 0
        self.asked: list[int] = []
        self._objects = objects

    async def changed(self, _volume_id: str, since: int) -> tuple[int, int, list[Entry]]:
        self.asked.append(since)
        base = since if self.oldest <= since <= self.version else 0
        return (
            self.version,
            base,
            [entry_of(self._objects, f"{number:05}", b"") for number in range(base, self.version)],
        )


async def test_layers_stay_few_and_unused_ones_go(tmp_path: Path, objects: Contents) -> None:
    server = Server(objects)
    with ThreadPoolExecutor(1) as executor:
        checkouts = Checkouts(tmp_path / "checkouts", objects, executor, server.changed)
        checkouts.open()
        empty = await checkouts.get("vo-1")
        assert [layer.name for layer in empty.layers] == ["empty"]
        server.version = 100
        first = await checkouts.get("vo-1")
        for _ in range(150):
            server.version += 1
            checkout = await checkouts.get("vo-1")
            assert checkout.version == server.version
            assert sum(len(os.listdir(layer)) for layer in checkout.layers) == server.version
            checkouts.release(checkout.layers)
            while checkouts._joining:
                await next(iter(checkouts._joining))
        assert len((await checkouts.get("vo-1")).layers) <= 9
        assert first.layers[0].is_dir()  # still mounted somewhere
        checkouts.release(first.layers)
        assert not first.layers[0].exists()
        asked = len(server.asked)
        await checkouts.get("vo-1", at_least=server.version)
        assert len(server.asked) == asked
        server.version = server.oldest = 1000  # the server has forgotten what was before
        latest = await checkouts.get("vo-1")
        assert [layer.name for layer in latest.layers] == ["0-1000-1000"]
        again = Checkouts(tmp_path / "checkouts", objects, executor, server.changed)
        again.open()
        assert (await again.get("vo-1", at_least=1000)).layers == latest.layers


def _nested(root: Path, depth: int) -> str:
    """A file below so many directories; its path."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
    os.close(fd)
    return "d/" * depth + "f"


def test_directories_nested_deeper_than_calls(upper: Path, tmp_path: Path, objects: Contents) -> None:
    path = _nested(upper, 1100)
    found = look(upper, {}, objects)
    assert found.changes[-1].path == path
    assert len(found.changes) == 1101
    layer = tmp_path / ("a layer at a long path of its own " * 3) / "layer"
    layer.mkdir(parents=True)
    build_layer(str(layer), found.changes, objects, False)
    assert look(layer, {}, objects).changes == found.changes
    remove_tree(layer)
    remove_tree(upper)
    assert not layer.exists()
    assert not upper.exists()


def test_long_names_on_a_long_way(tmp_path: Path, objects: Contents) -> None:
    digest = place_bytes(b"x", str(objects.directory), 0o644, 0)
    directories = ["/".join(["n" * 255] * count) for count in range(1, 16)]
    entries = [Entry(path, DIRECTORY, 0o755, os.geteuid(), os.getegid()) for path in directories]
    entries += [
        Entry(f"{directories[-1]}/{name}" + "z" * 254, FILE, 0o644, os.geteuid(), os.getegid(), 9, 1, digest)
        for name in "ab"
    ]
    layer = tmp_path / "layer"
    layer.mkdir()
    build_layer(str(layer), entries, objects, False)
    assert [entry.path for entry in look(layer, {}, objects).changes] == [entry.path for entry in entries]
    remove_tree(layer)
