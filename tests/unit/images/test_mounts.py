"""Sets of files as directories."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from intermodal.files import Files
from intermodal.home import Home
from intermodal.worker.images.mounts import MountStore
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.file import FileEntry

CONTENT = b"print('hi')\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def mounts(tmp_path: Path) -> MountStore:
    files = Files(Home(tmp_path))
    files.put(DIGEST, CONTENT)
    return MountStore(Home(tmp_path), files)


def entry(path: str, mode: int = 0o644, link: str = "") -> FileEntry:
    return FileEntry(path, "" if link else DIGEST, 0 if link else len(CONTENT), mode, link)


def test_files_lie_where_containers_see_them_with_their_modes(mounts: MountStore) -> None:
    root = mounts.materialise("mo-1", [entry("/root/a.py"), entry("/root/pkg/run", 0o755), entry("/l", link="root")])
    assert (root / "root/a.py").read_bytes() == CONTENT
    assert (root / "root/a.py").stat().st_mode & 0o7777 == 0o644
    assert (root / "root/pkg/run").stat().st_mode & 0o7777 == 0o755
    assert (root / "root/pkg").stat().st_mode & 0o7777 == 0o755
    assert (root / "root").stat().st_mode & 0o7777 == 0o700
    assert (root / "l").readlink() == Path("root")
    assert (root / "root/a.py").stat().st_nlink == 2


def test_directories_that_every_image_has_keep_their_nature(mounts: MountStore) -> None:
    root = mounts.materialise("mo-1", [entry("/tmp/x"), entry("/bin/tool"), entry("/var/run/y")])
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "usr/bin/tool").exists()
    assert not (root / "bin").exists()
    assert (root / "run/y").exists()


def test_empty_directories(mounts: MountStore) -> None:
    root = mounts.materialise("mo-1", [entry("/data/a"), FileEntry("/data/empty/er", "", 0), FileEntry("/bin", "", 0)])
    assert (root / "data/empty/er").is_dir()
    assert (root / "usr/bin").is_dir()
    assert not (root / "bin").exists()


def test_a_set_is_made_once(mounts: MountStore) -> None:
    first = mounts.materialise("mo-1", [entry("/a")])
    assert mounts.has("mo-1")
    assert mounts.materialise("mo-1", []) == first
    assert (first / "a").exists()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry("a")], "no absolute path"),
        ([entry("/a/../../etc/x")], "no absolute path"),
        ([entry("/")], "take the place"),
        ([entry("/a"), entry("/a")], "twice"),
        ([entry("/a"), entry("/a/b")], "is a file in the same set"),
        ([entry("/a"), FileEntry("/a", "", 0)], "is a file in the same set"),
        ([entry("/out/x"), entry("/out", link="/etc")], "twice"),
    ],
)
def test_entries_that_make_no_sense_are_refused_and_leave_nothing(
    mounts: MountStore, tmp_path: Path, entries: list[FileEntry], words: str
) -> None:
    with pytest.raises(Fault, match=words) as caught:
        mounts.materialise("mo-1", entries)
    assert caught.value.code == Code.INVALID
    assert list((tmp_path / "mounts").iterdir()) == []


def test_a_link_leads_nothing_out_of_the_set(mounts: MountStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(Fault):
        mounts.materialise("mo-1", [entry("/out", link=str(outside)), entry("/out/x")])
    assert list(outside.iterdir()) == []


def test_a_file_that_was_never_uploaded(mounts: MountStore) -> None:
    with pytest.raises(Fault) as caught:
        mounts.materialise("mo-1", [FileEntry("/a", "0" * 64, 1)])
    assert caught.value.code == Code.NOT_FOUND


@pytest.mark.parametrize("mount_id", ["", "..", "mo-../x", "im-1"])
def test_an_id_names_no_path(mounts: MountStore, mount_id: str) -> None:
    with pytest.raises(Fault):
        mounts.materialise(mount_id, [])


def test_rest_of_an_interrupted_process_is_removed(mounts: MountStore, tmp_path: Path) -> None:
    half = tmp_path / "mounts/.new-4194305-0/root"
    half.mkdir(parents=True)
    mounts.clean()
    assert list((tmp_path / "mounts").iterdir()) == []
