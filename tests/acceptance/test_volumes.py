"""Volumes and network file systems through the real command line: documented programs, and what people do to them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, ProgramFinder
from tests.acceptance.test_interrupted_transfers import kill_when, with_more

pytestmark = pytest.mark.acceptance


def lines(platform: Platform, path: Path, target: str = "", *args: str) -> list[str]:
    ran = platform.modal("run", f"{path}{target}", *args)
    assert ran.code == 0, ran.text
    return ran.lines()


def listed(platform: Platform, volume: str, path: str = "/") -> list[str]:
    ran = platform.modal("volume", "ls", volume, path)
    assert ran.code == 0, ran.text
    return ran.out.split()


def test_documented_programs(platform: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    created = platform.modal("volume", "create", "my-volume")
    assert created.out.startswith("Created volume 'my-volume' in environment 'main'.\n")
    path = "p=PosixPath('/root/foo/bar.txt')"
    assert lines(platform, program("guide/volumes__1")) == [
        f"{path} does not exist!",
        f"Created {path}",
        f"Committed {path}",
        f"{path} does not exist!",
        f"{path} contains 'hello'",
    ]
    lines(platform, program("guide/volumes__3"))
    assert platform.modal("volume", "get", "my-volume", "xyz.txt", "-").out == "hello"
    (tmp_path / "data.txt").write_text("data")
    assert platform.modal("volume", "put", "my-volume", tmp_path / "data.txt").code == 0
    busy = platform.modal("run", program("guide/volumes__j1"))
    assert busy.code == 1
    assert "volume busy" in busy.err
    assert "/vol/data.txt" in busy.err
    weights = tmp_path / "weights" / "deep"
    weights.mkdir(parents=True)
    (weights / "w.bin").write_bytes(b"w")
    uploaded = program("guide/storing-model-weights-on-modal__j1")
    lines(platform, uploaded, "", "--local-path", str(weights.parent), "--remote-path", "/x")
    assert listed(platform, "model-weights-vol", "x/deep") == ["x/deep/w.bin"]


PROGRAM = """
import io, os, pathlib, time
import modal

app = modal.App("volumes-test")
vol = modal.Volume.from_name("test-vol", create_if_missing=True)
nested = modal.Volume.from_name("test-nested", create_if_missing=True)
nfs = modal.NetworkFileSystem.from_name("test-nfs", create_if_missing=True)
D = pathlib.Path("/data")

@app.function(volumes={D: vol, "/data/inner": nested}, network_file_systems={"/nfs": nfs}, max_containers=1)
def a(step):
    return globals()[step]()

@app.function(volumes={D: vol}, network_file_systems={"/nfs": nfs}, max_containers=1)
def b(step):
    return globals()[step]()

def tree():
    return sorted(str(p.relative_to(D)) for p in D.rglob("*"))

def make():
    (D / "dir/deep").mkdir(parents=True)
    (D / "dir/deep/x").write_text("x")
    (D / "dir/y").write_text("y")
    (D / "run.sh").write_text("#!/bin/sh")
    (D / "run.sh").chmod(0o755)
    (D / "link").symlink_to("dir/y")
    (D / "big").write_bytes(b"z" * 3_000_000)
    with open(D / "sparse", "wb") as f:
        f.truncate(1 << 30)
    os.utime(D / "dir/y", (1000, 1000))
    (D / "inner/n").write_text("nested")
    vol.commit()
    nested.commit()

def see():
    vol.reload()
    assert (D / "link").read_text() == "y" and os.access(D / "run.sh", os.X_OK)
    assert (D / "sparse").stat().st_size == 1 << 30 and (D / "sparse").stat().st_blocks < 1000
    assert (D / "dir/y").stat().st_mtime == 1000
    return tree()

def change():
    vol.reload()
    os.rename(D / "dir", D / "renamed")
    (D / "renamed/new").write_text("new")
    (D / "renamed/y").unlink()
    (D / "sparse").unlink()
    (D / "big").write_bytes(b"small")
    vol.commit()

def nested_survives():
    vol.reload()
    assert (D / "inner/n").read_text() == "nested"
    with open(D / "inner/n"):
        try:
            vol.reload()
        except RuntimeError as error:
            assert "volume busy" in str(error) and "/data/inner/n" in str(error)
        else:
            assert False
    nested.reload()
    return [path for path in tree() if not path.startswith("inner/")]

def by_hand():
    vol.reload()
    import shutil
    shutil.rmtree(D / "renamed")
    (D / "renamed").mkdir()
    (D / "renamed/again").write_text("again")
    vol.commit()
    return vol.object_id, [e.path for e in vol.listdir("/renamed")], b"".join(vol.read_file("renamed/again"))

def put_shared():
    pathlib.Path("/nfs/shared").write_text("at once")

def get_shared():
    return pathlib.Path("/nfs/shared").read_text()

def unfinished():
    (D / "unfinished").write_text("kept")

def killed():
    (D / "killed").write_text("kept")
    os.kill(os.getpid(), 9)

@app.function()
def outside(volume):
    try:
        volume.commit()
    except modal.exception.ExecutionError as error:
        assert "mounted" in str(error), error
    with volume.batch_upload() as batch:
        batch.put_file("/etc/hostname", "/from-container")
        batch.put_file(io.BytesIO(b"m" * 3_000_000), "/up/large")
        batch.put_directory(os.path.dirname(os.__file__) + "/json", "/up/many")
    sizes = {e.path: e.size for e in volume.listdir("/up", recursive=True)}
    assert sizes["up/large"] == 3_000_000 and len(sizes) > 4, sizes
    assert sum(len(chunk) for chunk in volume.read_file("up/large")) == 3_000_000
    volume.remove_file("/up", recursive=True)
    return [e.path for e in volume.listdir("/") if e.path == "from-container"]

@app.local_entrypoint()
def main():
    a.remote("make")
    base = ["big", "dir", "dir/deep", "dir/deep/x", "dir/y", "inner", "link", "run.sh", "sparse"]
    assert [p for p in b.remote("see") if p != "inner/n"] == base, b.remote("tree")
    b.remote("change")
    expected = ["big", "inner", "link", "renamed", "renamed/deep", "renamed/deep/x", "renamed/new", "run.sh"]
    assert a.remote("nested_survives") == expected, a.remote("tree")
    object_id, names, content = a.remote("by_hand")
    assert (object_id, names, content) == (vol.object_id, ["renamed/again"], b"again")
    a.remote("put_shared")
    assert b.remote("get_shared") == "at once"
    assert [e.path for e in nfs.listdir("/")] == ["shared"] and b"".join(nfs.read_file("shared")) == b"at once"
    b.remote("unfinished")
    assert outside.remote(vol) == ["from-container"]
    try:
        a.remote("killed")
    except Exception as error:
        print(type(error).__name__)
    until = time.time() + 200
    while not {"unfinished", "killed"} <= {e.path for e in vol.listdir("/")}:
        assert time.time() < until, "no commit in the background, or of the killed container"
        b.remote("tree")
        time.sleep(0.2)
    print("done")
"""


def test_what_containers_do(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "volumes_test.py"
    path.write_text(PROGRAM)
    assert lines(platform, path)[-1] == "done"
    names = listed(platform, "test-vol")
    assert {"big", "renamed", "killed", "unfinished", "from-container"} <= set(names)
    volume_id = json.loads(platform.intermodal("volumes", "list", "--json").out)
    (found,) = [one for one in volume_id if one["name"] == "test-vol"]
    history = json.loads(platform.intermodal("volumes", "history", "test-vol", "--json").out)
    assert history[0]["version"] == found["version"]
    first = history[-1]["version"]
    assert platform.intermodal("volumes", "restore", "test-vol", str(first), "--yes").code == 0
    assert "renamed" not in listed(platform, "test-vol")
    assert platform.modal("volume", "delete", "-y", "test-vol").code == 0
    gone = platform.modal("volume", "ls", "test-vol")
    assert gone.code == 1
    assert "modal volume create test-vol" in gone.err


DELETED = """
import pathlib
import modal

app = modal.App("volumes-deleted")
vol = modal.Volume.from_name("doomed", create_if_missing=True)

@app.function(volumes={"/data": vol}, max_containers=1)
def f():
    pathlib.Path("/data/x").write_text("x")
    vol.commit()

@app.local_entrypoint()
def main():
    f.remote()
    modal.Volume.delete("doomed")
    try:
        f.remote()
    except modal.exception.NotFoundError as error:
        print(error)
"""


def test_a_deleted_volume_that_is_mounted(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "volumes_deleted.py"
    path.write_text(DELETED)
    (line,) = lines(platform, path)
    assert "was deleted" in line


def test_files_go_up_and_come_down(platform: Platform, tmp_path: Path) -> None:
    source = tmp_path / "d"
    (source / "sub/empty").mkdir(parents=True)
    (source / "a.txt").write_text("hello")
    (source / "run").write_text("#!")
    (source / "run").chmod(0o755)
    (source / "sub/link").symlink_to("../a.txt")
    (source / "sub/broken").symlink_to("nowhere")
    (source / "new\nline").write_text("n")
    os.utime(source / "new\nline", (1000, 1000))
    os.mkfifo(source / "fifo")
    for noun, name in (("volume", "files"), ("nfs", "shared-files")):
        assert platform.modal(noun, "create", name).code == 0
        assert platform.modal(noun, "create", name).code == 1
        put = platform.modal(noun, "put", name, source)
        assert put.code == 0
        assert put.err.splitlines() == [
            f"{source}/fifo was left out: it is neither a file nor a directory.",
            f"✓ Uploaded {source} to '/d' in '{name}' (3 files, 8 B)",
        ]
        assert "no plain file" in platform.modal(noun, "put", name, source / "fifo").err
        assert platform.modal(noun, "put", name, "", "x").code == 1
        assert platform.modal(noun, "put", name, source / "a.txt", "/p/q.txt").code == 0
        assert platform.modal(noun, "get", name, "d/a.txt", "-").out == "hello"
        target = tmp_path / noun
        assert platform.modal(noun, "get", name, "/" if noun == "volume" else "**", target).code == 0
        assert (target / "d/sub/link").read_text() == "hello"
        assert os.readlink(target / "d/sub/broken") == "nowhere"
        assert (target / "d/sub/empty").is_dir()
        assert (target / "d/new\nline").stat().st_mtime == 1000
        assert not (target / "d/fifo").exists()
        assert (target / "d/run").stat().st_mode & 0o777 == 0o755
        assert (target / "p/q.txt").read_text() == "hello"
        assert platform.modal(noun, "rm", name, "d").code == 1
        assert platform.modal(noun, "rm", "-r", name, "d").code == 0
        assert platform.modal(noun, "ls", name).out.split() == ["p"]
        assert [row["Name"] for row in json.loads(platform.modal(noun, "list", "--json").out)].count(name) == 1
        assert "LOCAL_DESTINATION is empty" in platform.modal(noun, "get", name, "p", "").err
        for wrong in ("../../etc/passwd", "nothing", *(["nothing*"] if noun == "nfs" else [])):
            assert platform.modal(noun, "get", name, wrong, "-").code == 1
    again = platform.modal("volume", "put", "files", source / "a.txt", "/p/q.txt")
    assert again.code == 1
    assert "--force" in again.err
    assert platform.modal("volume", "put", "-f", "files", source / "run", "/p/q.txt").code == 0
    assert platform.modal("volume", "cp", "files", "p/q.txt", "copy").code == 0
    (row,) = [row for row in json.loads(platform.modal("volume", "ls", "files", "--json").out) if row["Type"] == "file"]
    assert (row["Filename"], row["Size"]) == ("copy", "2 B")
    existing = platform.modal("volume", "get", "files", "copy", source / "a.txt")
    assert existing.code == 1
    assert "--force" in existing.err
    assert platform.modal("volume", "rename", "-y", "files", "shared-files").code == 0
    for noun in ("volume", "nfs"):
        assert platform.modal(noun, "delete", "-y", "shared-files").code == 0


def test_an_interrupted_upload_goes_on_where_it_ended(platform: Platform, tmp_path: Path) -> None:
    with_more(lambda factor: _interrupted(platform, tmp_path / str(factor), factor))


def _interrupted(platform: Platform, place: Path, factor: int) -> None:
    source, count, name = place / "many", 1000 * factor, f"resumed-{factor}"
    source.mkdir(parents=True)
    for number in range(count):
        (source / str(number)).write_text(f"resume {factor} {number}")
    objects = platform.home / "volumes/objects"

    def stored(number: int) -> Path:
        digest = hashlib.sha256(f"resume {factor} {number}".encode()).hexdigest()
        return objects / digest[:2] / digest

    first = stored(0)
    assert platform.modal("volume", "create", name).code == 0
    kill_when(
        platform, {}, first.exists, lambda: all(stored(number).exists() for number in range(count)),
        "volume", "put", name, source, "/d",
    )  # fmt: skip
    assert listed(platform, name) == []  # all of it, or nothing
    inode = first.stat().st_ino
    assert platform.modal("volume", "put", name, source, "/d").code == 0
    assert len(listed(platform, name, "/d")) == count
    assert first.stat().st_ino == inode
    got = place / "got"
    assert platform.modal("volume", "get", name, "/", got).code == 0
    inode = (got / "d/1").stat().st_ino
    (got / "d/2").unlink()
    assert platform.modal("volume", "get", name, "/", got).code == 0  # what is there already is not in the way
    assert (got / "d/2").read_text() == f"resume {factor} 2"
    assert (got / "d/1").stat().st_ino == inode
    assert platform.modal("volume", "delete", "-y", name).code == 0


ASYNC = """
import io
import modal

app = modal.App("volumes-async")
vol = modal.Volume.from_name("async-vol", create_if_missing=True)

@app.function(volumes={"/v": vol})
async def write():
    open("/v/x", "w").write("1")
    await vol.commit.aio()
    await vol.reload.aio()
    async with vol.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"q" * 2_000_000), "/q")
    return [e.path async for e in vol.iterdir.aio("/")]

@app.function()
def look(volume):
    return [e.path for e in volume.listdir("/")], volume

@app.local_entrypoint()
async def main():
    assert await write.remote.aio() == ["q", "x"]
    async with modal.Volume.ephemeral() as volume:
        async with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"content"), "a/b")
        assert [chunk async for chunk in volume.read_file.aio("a/b")] == [b"content"]
        names, back = await look.remote.aio(volume)
        assert (names, back.object_id) == (["a"], volume.object_id)
        await volume.copy_files.aio(["a/b"], "c")
        await volume.remove_file.aio("a", recursive=True)
        assert [e.path for e in await volume.listdir.aio("/")] == ["c"]
    try:
        await volume.listdir.aio("/")
    except modal.exception.NotFoundError:
        print("gone")
    async with modal.NetworkFileSystem.ephemeral() as nfs:
        assert await nfs.write_file.aio("/x/y", io.BytesIO(b"z")) == 1
        assert [e.path async for e in nfs.iterdir.aio("/x/*")] == ["/x/y"]
    await modal.Volume.rename.aio("async-vol", "async-vol-2")
    await modal.Volume.delete.aio("async-vol-2")
"""


def test_the_asynchronous_face(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "volumes_async.py"
    path.write_text(ASYNC)
    assert lines(platform, path) == ["gone"]
