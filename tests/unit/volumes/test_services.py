"""Files of volumes and network file systems as clients ask for them: rules of paths, copies, uploads, collection."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.contents import Contents
from intermodal.server.services.network_files import NetworkFiles
from intermodal.server.services.volume_paths import check, check_entry, clean
from intermodal.server.services.volumes import Volumes
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import DIRECTORY, FILE, SYMLINK, Entry
from modal._protocol.objects import place_bytes
from tests.unit.volumes.conftest import VOLUME_ID


@pytest.mark.parametrize(
    ("path", "cleaned"), [("/", ""), ("", ""), ("a", "a"), ("/a//b/", "a/b"), ("./a/./b", "a/b"), ("a b\n", "a b\n")]
)
def test_paths_are_cleaned(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned


@pytest.mark.parametrize("path", ["..", "/../etc", "a/../../b", "a\0b", "x" * 256, "a/" * 2100, "\ud800"])
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(Fault) as refused:
        clean(path)
    assert refused.value.code == Code.INVALID


@pytest.mark.parametrize("path", ["/a", "a/", "a//b", "./a", "a/.."])
def test_entries_have_clean_paths(path: str) -> None:
    with pytest.raises(Fault):
        check(path)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a", 7),
        Entry("a", FILE, content="../../etc/passwd"),
        Entry("a", FILE, 0o10000, content="a" * 64),
        Entry("a", FILE, size=-1, content="a" * 64),
        Entry("a", SYMLINK),
    ],
)
def test_entries_are_checked(entry: Entry) -> None:
    with pytest.raises(Fault):
        check_entry(entry)


def stored(objects: Contents, path: str, content: bytes, mode: int = 0o644) -> Entry:
    digest = place_bytes(content, str(objects.directory), mode, 5)
    return Entry(path, FILE, mode, 0, 0, 5, len(content), digest)


async def paths(volumes: Volumes, path: str = "", recursive: bool = True) -> list[str]:
    return [entry.path for entry in await volumes.entries(VOLUME_ID, path, recursive)]


async def read(volumes: Volumes, path: str) -> bytes:
    return b"".join([chunk async for chunk in volumes.read(VOLUME_ID, path)])


async def test_upload_and_read(volumes: Volumes, objects: Contents) -> None:
    entries = [stored(objects, "d/x", b"one"), Entry("l", SYMLINK, 0o777, content="d"), Entry("e", DIRECTORY, 0o755)]
    await volumes.upload(VOLUME_ID, entries, False)
    assert await paths(volumes) == ["d", "d/x", "e", "l"]
    assert await paths(volumes, "/d/", False) == ["d/x"]
    assert await paths(volumes, "d/x") == ["d/x"]
    assert await read(volumes, "/d/x") == b"one"
    assert await read(volumes, "l/x") == b"one"
    with pytest.raises(Fault, match="is a directory"):
        await read(volumes, "d")
    for missing in ("nothing", "d/y", "d/x/y", "l/y"):
        with pytest.raises(Fault, match="No such file") as failed:
            await read(volumes, missing)
        assert failed.value.code == Code.NOT_FOUND


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "l"])
async def test_links_never_lead_out(volumes: Volumes, target: str) -> None:
    await volumes.upload(VOLUME_ID, [Entry("l", SYMLINK, 0o777, content=target)], False)
    with pytest.raises(Fault) as failed:
        await read(volumes, "l")
    assert failed.value.code == Code.INVALID


async def test_what_is_in_the_way_of_an_upload(volumes: Volumes, objects: Contents) -> None:
    one, two = stored(objects, "d/x", b"one"), stored(objects, "d/x", b"two")
    await volumes.upload(VOLUME_ID, [one], False)
    for entries, force in [
        ([two], False),
        ([stored(objects, "d", b"")], True),
        ([stored(objects, "d/x/y", b"")], True),
        ([Entry("d/x", DIRECTORY)], True),
        ([one, two], True),
    ]:
        with pytest.raises(Fault) as failed:
            await volumes.upload(VOLUME_ID, entries, force)
        assert failed.value.code == Code.CONFLICT
        assert await read(volumes, "d/x") == b"one"
    await volumes.upload(VOLUME_ID, [two, Entry("d", DIRECTORY)], True)
    assert await read(volumes, "d/x") == b"two"


async def test_contents_must_be_there(volumes: Volumes) -> None:
    with pytest.raises(Fault, match="sent again"):
        await volumes.upload(VOLUME_ID, [Entry("x", FILE, content="0" * 64)], False)


async def test_copying_is_as_cp_does(volumes: Volumes, objects: Contents) -> None:
    await volumes.upload(VOLUME_ID, [stored(objects, "d/x", b"one"), stored(objects, "y", b"two")], False)
    await volumes.copy(VOLUME_ID, ["d/x"], "z", False)
    await volumes.copy(VOLUME_ID, ["y"], "/d", False)
    await volumes.copy(VOLUME_ID, ["y", "z"], "d/", False)
    assert await paths(volumes) == ["d", "d/x", "d/y", "d/z", "y", "z"]
    assert await read(volumes, "d/z") == b"one"
    for sources, target in [
        (["nothing"], "q"),
        (["y", "z"], "q"),
        (["y"], "q/"),
        (["y"], "q/w"),
        (["y"], "y"),
        (["d"], "q"),
        (["y"], "d/x/q"),
    ]:
        with pytest.raises(Fault):
            await volumes.copy(VOLUME_ID, sources, target, False)
    await volumes.copy(VOLUME_ID, ["d"], "e", True)
    assert await paths(volumes, "e") == ["e/x", "e/y", "e/z"]
    with pytest.raises(Fault, match="into itself"):
        await volumes.copy(VOLUME_ID, ["d"], "d", True)


async def test_removing(volumes: Volumes, objects: Contents) -> None:
    await volumes.upload(VOLUME_ID, [stored(objects, name, b"") for name in ("d/x", "d/e/y", "d0")], False)
    with pytest.raises(Fault, match="recursive"):
        await volumes.remove(VOLUME_ID, "d", False)
    await volumes.remove(VOLUME_ID, "d", True)
    assert await paths(volumes) == ["d0"]
    await volumes.remove(VOLUME_ID, "/", True)
    assert await paths(volumes) == []


async def test_only_what_no_version_needs_is_collected(volumes: Volumes, objects: Contents) -> None:
    needed, old, unused = (stored(objects, "x", content) for content in (b"needed", b"old", b"unused"))
    await volumes.upload(VOLUME_ID, [old], False)
    await volumes.upload(VOLUME_ID, [needed], True)
    assert await volumes.collect() == 0  # too young
    freed = await volumes.collect(older_than=float("inf"))
    assert freed == len(b"unused")
    assert [objects.has(entry.content) for entry in (needed, old, unused)] == [True, True, False]
    assert await read(volumes, "x") == b"needed"


async def test_restoring_a_version_that_is_not_kept(volumes: Volumes) -> None:
    with pytest.raises(Fault, match="not kept"):
        await volumes.restore(VOLUME_ID, 7)


# -- network file systems


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_network_files(network_files: NetworkFiles) -> None:
    assert await network_files.write("nf-1", "/a/b/c.txt", 0o600, chunks(b"one", b"two")) == 6
    await network_files.write("nf-1", "a/d.txt", 0o644, chunks())
    assert [entry.path for entry in await network_files.entries("nf-1", "/", False)] == ["a"]
    assert [entry.path for entry in await network_files.entries("nf-1", "a", False)] == ["b", "d.txt"]
    assert [entry.path for entry in await network_files.entries("nf-1", "a/b/c.txt", False)] == ["c.txt"]
    for pattern, found in [
        ("**", ["/a", "/a/b", "/a/b/c.txt", "/a/d.txt"]),
        ("a/*.txt", ["/a/d.txt"]),
        ("**/*.txt", ["/a/b/c.txt", "/a/d.txt"]),
        ("a/**", ["/a/b", "/a/b/c.txt", "/a/d.txt"]),
        ("*/b/*", ["/a/b/c.txt"]),
    ]:
        assert [entry.path for entry in await network_files.entries("nf-1", pattern, False)] == found
    assert b"".join([chunk async for chunk in network_files.read("nf-1", "a/b/c.txt")]) == b"onetwo"
    with pytest.raises(Fault, match="recursive"):
        await network_files.remove("nf-1", "a", False)
    await network_files.remove("nf-1", "a", True)
    assert await network_files.entries("nf-1", "/", True) == []


async def test_an_interrupted_write_leaves_nothing(network_files: NetworkFiles) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise Fault(Code.INTERNAL, "the client went away")

    with pytest.raises(Fault):
        await network_files.write("nf-1", "x", 0o644, broken())
    assert os.listdir(network_files.root("nf-1")) == []


async def test_what_a_killed_server_was_writing_is_removed(network_files: NetworkFiles) -> None:
    never = asyncio.Event()

    async def held_up() -> AsyncIterator[bytes]:
        yield b"half"
        written.set()
        await never.wait()

    written = asyncio.Event()
    writing = asyncio.ensure_future(network_files.write("nf-1", "x", 0o644, held_up()))
    await written.wait()
    root = network_files.root("nf-1")
    assert os.listdir(root) == []  # containers see nothing of it
    (half,) = (root.parent / ".incoming").iterdir()
    writing.cancel()
    await asyncio.wait([writing])
    half.write_bytes(b"as after a kill")
    network_files.open()
    assert list((root.parent / ".incoming").iterdir()) == []


async def test_network_files_follow_no_link_out(network_files: NetworkFiles, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    root = network_files.root("nf-1")
    (root / "link").symlink_to(secret)
    (root / "file").symlink_to(secret / "key")
    os.mkfifo(root / "fifo")
    for path in ("link/key", "file", "fifo", "../../secret/key"):
        with pytest.raises(Fault):
            [chunk async for chunk in network_files.read("nf-1", path)]
    for path in ("link/new", "link"):
        with pytest.raises(Fault):
            await network_files.write("nf-1", f"{path}/x", 0o644, chunks(b"x"))
    await network_files.remove("nf-1", "/", True)
    assert sorted(os.listdir(secret)) == ["key"]
    assert hashlib.sha256((secret / "key").read_bytes()).hexdigest()


async def test_several_network_files_at_once(network_files: NetworkFiles) -> None:
    entries = [
        Entry("empty", DIRECTORY),
        Entry("d", DIRECTORY),
        Entry("d/link", SYMLINK, content="../new\nline"),
        Entry("new\nline", FILE, 0o755, mtime=7),
        *(Entry(f"many/{number}", FILE, 0o644) for number in range(100)),
    ]
    contents = [b"x", *(b"%d" % number for number in range(100))]
    for _again in range(2):  # what is there is replaced
        await network_files.write_all("nf-1", entries, contents)
    root = network_files.root("nf-1")
    assert sorted(os.listdir(root)) == ["d", "empty", "many", "new\nline"]
    assert (root / "d/link").read_bytes() == b"x"
    status = (root / "new\nline").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o755, 7)
    assert sorted(os.listdir(root / "many")) == sorted(str(number) for number in range(100))
    assert (root / "many/42").read_text() == "42"
    assert "/new\nline" in [entry.path for entry in await network_files.entries("nf-1", "**", True)]


@pytest.mark.parametrize("count", [1, 40])
async def test_network_files_that_cannot_be_placed_leave_nothing(network_files: NetworkFiles, count: int) -> None:
    root = network_files.root("nf-1")
    (root / "dir/x").mkdir(parents=True)
    (root / "file").write_text("old")
    for path, words in [("dir", "is a directory"), ("file/x", "leads over")]:
        entries = [*(Entry(f"a{number}", FILE) for number in range(count - 1)), Entry(path, FILE)]
        with pytest.raises(Fault, match=words) as caught:
            await network_files.write_all("nf-1", entries, [b""] * count)
        assert repr(path) in caught.value.text
    assert not [name for name in os.listdir(root) if name.startswith(".")]
    assert (root / "file").read_text() == "old"


async def test_paths_nested_as_deep_as_can_be(volumes: Volumes, objects: Contents, network_files: NetworkFiles) -> None:
    path = "d/" * 1100 + "f"
    await volumes.upload(VOLUME_ID, [stored(objects, path, b"x")], False)
    assert b"".join([chunk async for chunk in volumes.read(VOLUME_ID, path)]) == b"x"
    assert len(await volumes.entries(VOLUME_ID, "/", True)) == 1101
    await volumes.upload(VOLUME_ID, [stored(objects, f"{path}{number}", b"x") for number in range(600)], False)
    await volumes.remove(VOLUME_ID, "d", True)
    with pytest.raises(Fault, match="4,101 bytes, of 4,095"):
        await volumes.entries(VOLUME_ID, "d/" * 2050 + "f", False)
    await network_files.write("nf-1", path, 0o644, chunks(b"x"))
    assert len(await network_files.entries("nf-1", "/", True)) == 1101
    assert [entry.path for entry in await network_files.entries("nf-1", "**/f", True)] == [f"/{path}"]
    await network_files.remove("nf-1", "d", True)
    assert await network_files.entries("nf-1", "/", True) == []
    await network_files.write("nf-1", path, 0o644, chunks(b"x"))
    await network_files.remove_all("nf-1")
    assert await network_files.entries("nf-1", "/", True) == []


async def test_links_to_directories_on_the_way(volumes: Volumes, objects: Contents) -> None:
    entries = [
        stored(objects, "d/x", b"x"),
        Entry("to", SYMLINK, content="d"),
        Entry("d/again", SYMLINK, content="../to"),
        Entry("link", SYMLINK, content="to/x"),
        Entry("round", SYMLINK, content="round"),
    ]
    await volumes.upload(VOLUME_ID, entries, False)
    assert await paths(volumes, "to", False) == ["to"]  # the link itself
    assert await paths(volumes, "to/", False) == ["to/again", "to/x"]
    assert await paths(volumes, "to/again/again/x", False) == ["to/again/again/x"]
    assert await read(volumes, "to/again/x") == b"x"
    for path in ("round", "round/x"):
        with pytest.raises(Fault, match="too many"):
            await read(volumes, path)
    with pytest.raises(Fault, match="No such file or directory in volume 'test': 'to/y'"):
        await volumes.entries(VOLUME_ID, "to/y", False)
    await volumes.copy(VOLUME_ID, ["link"], "copy", False)
    assert (await volumes.entry(VOLUME_ID, "copy")).kind == FILE
    await volumes.copy(VOLUME_ID, ["link"], "to", False)
    assert await read(volumes, "d/link") == b"x"
    await volumes.upload(VOLUME_ID, [stored(objects, "new", b"new")], False)
    await volumes.copy(VOLUME_ID, ["new"], "link", False)  # through the link
    await volumes.copy(VOLUME_ID, ["new"], "to/placed", False)
    assert (await volumes.entry(VOLUME_ID, "link")).kind == SYMLINK
    assert await read(volumes, "d/x") == await read(volumes, "d/placed") == b"new"
    await volumes.remove(VOLUME_ID, "to/x", False)
    await volumes.remove(VOLUME_ID, "to", False)
    assert await paths(volumes, "", False) == ["copy", "d", "link", "new", "round"]
