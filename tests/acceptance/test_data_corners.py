"""What programs do to the files of volumes beside reading and writing them, odd names, and containers' variables."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = pytest.mark.acceptance

PROGRAM = r"""
import fcntl, io, json, modal, mmap, os, pathlib, shutil, sqlite3, subprocess, sys

app = modal.App("data-corners")
volume, inner = (modal.Volume.from_name(name, create_if_missing=True) for name in ("corner-files", "corner-inner"))
shared = modal.NetworkFileSystem.from_name("corner-shared", create_if_missing=True)
secret = modal.Secret.from_dict({
    "ODD.NAME": "1", "1X": "2", "BIG": "B" * 100_000, "LINES_OF": "a\nb", "UNI": "ü✓", "PYTHONPATH": "/extra",
    "MODAL_REGION": "mine", "MODAL_TASK_ID": "mine", "MODAL_IS_REMOTE": "no", "MODAL_ENVIRONMENT": "mine",
})
image = modal.Image.debian_slim("3.11").env(
    {"MODAL_CLOUD_PROVIDER": "mine", "MODAL_IMAGE_ID": "mine", "GPG_KEY": "mine", "FROM_IMAGE": "ü x"}
)
top = pathlib.PurePosixPath("/data dir/ü/")
p = pathlib.Path(top)

@app.function(
    image=image, secrets=[secret], network_file_systems={"/shared ü": shared},
    volumes={top: volume, "/second": volume, "/usr/local/lib": inner},
)
def use():
    (p / "file ü").write_text("x")
    assert os.listdir("/second") == []  # another mount of it sees what was committed when it was made
    volume.commit()
    volume.reload()
    assert os.listdir("/second") == ["file ü"]
    assert os.listdir("/usr/local/lib") == []  # what the image has there is hidden
    os.symlink("file ü", p / "link")
    os.link(p / "file ü", p / "hard")
    os.mkfifo(p / "fifo")
    os.chmod(p / "file ü", 0o751)
    os.rename(p / "file ü", p / "renamed")
    (p / ("n" * 255)).write_text("long")
    (p / ("ü" * 127)).write_text("long too")
    (p / "new\nline").write_text("x")
    open(os.fsencode(p) + b"/\xff\xfe", "w").close()
    with open(p / "mapped", "w+b") as file:
        file.truncate(4096)
        with mmap.mmap(file.fileno(), 4096) as mapped:
            mapped[:3] = b"abc"
    with open(p / "locked", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    with sqlite3.connect(p / "db.sqlite") as database:
        database.execute("create table t (x)")
    database.close()
    shutil.move(shutil.copy("/etc/passwd", "/tmp/moved"), p / "moved")
    os.makedirs(p / "empty/er")
    pathlib.Path("/shared ü/x ü").write_text("n")
    pathlib.Path("/outside").write_text("of any volume")
    volume.commit()
    names = [entry.path for entry in volume.iterdir("/")]
    assert sorted(names) == sorted(entry.path for entry in volume.listdir("/", recursive=True))
    assert "empty/er" in names and "empty/er" not in [entry.path for entry in volume.listdir("/")]
    [entry] = volume.listdir("renamed")
    assert (entry.path, entry.size, entry.type.name) == ("renamed", 1, "FILE") and entry.mtime > 1e9, entry
    assert [entry.path for entry in volume.listdir("/empty/")] == ["empty/er"]
    return names, {name: value for name, value in os.environ.items() if len(value) < 1000}, len(os.environ["BIG"])

@app.function(enable_memory_snapshot=True)
def snapshotted():
    return "whole"

@app.cls(enable_memory_snapshot=True)
class Snapshotted:
    @modal.enter(snap=True)
    def before(self):
        self.steps = ["snap"]

    @modal.enter(snap=False)
    def after(self):
        self.steps.append("after")

    @modal.method()
    def seen(self):
        return self.steps

@app.local_entrypoint()
def main():
    names, env, big = use.remote()
    told = []
    shared.write_file("/made/", open(__file__, "rb"), progress_cb=lambda **given: told.append(given["advance"]))
    assert sum(told) == os.path.getsize(__file__)
    assert [e.path for e in shared.listdir("**/*.py")] == ["/made/data_corners.py"]  # of a pattern: whole paths
    assert [e.path for e in shared.listdir("/made")] == ["data_corners.py"]  # of a directory: relative to it
    print("found", json.dumps([names, env, big, snapshotted.remote(), Snapshotted().seen.remote()]))
"""


def test_corners(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "data_corners.py").write_text(PROGRAM, encoding="utf-8")
    ran = platform.modal("run", "data_corners.py", cwd=tmp_path)
    assert ran.code == 0, ran.text
    [line] = [line for line in ran.out.splitlines() if line.startswith("found ")]
    names, env, big, whole, steps = json.loads(line.removeprefix("found "))
    assert (big, whole, steps) == (100_000, "whole", ["snap", "after"])
    assert {name: env[name] for name in ("ODD.NAME", "1X", "LINES_OF", "UNI", "GPG_KEY", "FROM_IMAGE")} == {
        "ODD.NAME": "1",
        "1X": "2",
        "LINES_OF": "a\nb",
        "UNI": "ü✓",
        "GPG_KEY": "mine",
        "FROM_IMAGE": "ü x",
    }
    assert "mine" not in {value for name, value in env.items() if name.startswith("MODAL_")}  # these are reserved
    assert (env["MODAL_IS_REMOTE"], env["MODAL_ENVIRONMENT"]) == ("1", "main")
    assert env["MODAL_TASK_ID"].startswith("ta-")
    assert env["MODAL_IMAGE_ID"].startswith("im-")
    assert env["MODAL_CLOUD_PROVIDER"]
    assert env["MODAL_REGION"]
    assert "/extra" in env["PYTHONPATH"].split(":")
    assert "fifo" not in names
    assert "outside" not in names
    got = platform.modal("volume", "get", "corner-files", "/", "got", cwd=tmp_path)
    assert got.code == 0, got.text
    assert sorted(os.listdir(tmp_path / "got")) == sorted({name.partition("/")[0] for name in names})
    assert (tmp_path / "got" / ("n" * 255)).read_text() == "long"
    assert (tmp_path / "got/mapped").read_bytes()[:4] == b"abc\0"
    assert (tmp_path / "got/renamed").stat().st_mode & 0o777 == (tmp_path / "got/hard").stat().st_mode & 0o777 == 0o751
    assert (tmp_path / "got/empty/er").is_dir()
    assert b"\xff\xfe" in os.listdir(os.fsencode(tmp_path / "got"))
    for noun, name in (("volume", "corner-files"), ("volume", "corner-inner"), ("nfs", "corner-shared")):
        assert platform.modal(noun, "delete", "-y", name).code == 0
