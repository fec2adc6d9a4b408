"""Which local files go where, how they are hashed, and which source a function brings."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from intermodal.disk import remove_deep
from modal import _hashing, _mounts
from modal._building import MOUNT_HEADER, _mount_id, _portions
from modal._mounts import LocalDir, LocalFile, PythonSource
from modal._protocol.messages.file import FileEntry, MountPut, mount_id_of
from modal._source import source_of
from modal.exception import InvalidError, ModuleNotMountable
from modal.file_pattern_matcher import NON_PYTHON_FILES, FilePatternMatcher


def tree(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def found(files: _mounts.FileSet) -> list[str]:
    return sorted(one.remote for one in files.find())


def test_one_file(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt")
    assert found(LocalFile(tmp_path / "a.txt", "/x/y.txt")) == ["/x/y.txt"]
    assert found(LocalFile(tmp_path / "a.txt", "/x/")) == ["/x/a.txt"]
    with pytest.raises(InvalidError, match="no file"):
        found(LocalFile(tmp_path / "b.txt", "/x"))
    with pytest.raises(InvalidError, match="add_local_dir"):
        found(LocalFile(tmp_path, "/x"))


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tree(tmp_path, "assets/a")
    assert found(LocalDir("~/assets", "/assets")) == ["/assets/a"]


def test_directories_and_ignores(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "b.log", ".venv/x", "sub/c.log", "sub/keep.log")
    every = ["/d/.venv/x", "/d/a.py", "/d/b.log", "/d/sub/c.log", "/d/sub/keep.log"]
    assert found(LocalDir(tmp_path, "/d")) == every
    assert found(LocalDir(tmp_path, "/d", ["*.log", ".venv"])) == ["/d/a.py", "/d/sub/c.log", "/d/sub/keep.log"]
    assert found(LocalDir(tmp_path, "/d", ["**/*.log", ".venv", "!sub/keep.log"])) == ["/d/a.py", "/d/sub/keep.log"]
    assert found(LocalDir(tmp_path, "/d", lambda path: path.parts[0] == ".venv")) == every[1:]
    assert found(LocalDir(tmp_path, "/d", ~FilePatternMatcher("**/*.py"))) == ["/d/a.py"]
    assert found(LocalDir(tmp_path, "/d", lambda path: path.stat().st_size > 7)) == [
        "/d/.venv/x",
        "/d/a.py",
        "/d/b.log",
    ]
    assert found(LocalDir(tmp_path, "/")) == [path[2:] for path in every]


def test_links_are_followed_and_never_endless(tmp_path: Path) -> None:
    tree(tmp_path, "dir/real.txt", "outside/o.txt")
    root = tmp_path / "dir"
    (root / "file").symlink_to("real.txt")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(".")
    (root / "gone").symlink_to("nowhere")
    links = {one.remote: one.link for one in LocalDir(root, "/d").find()}
    assert links == {"/d/file": "", "/d/gone": "nowhere", "/d/out/o.txt": "", "/d/real.txt": ""}


def test_empty_directories_come_along(tmp_path: Path) -> None:
    tree(tmp_path, "a/x.log", "full/y")
    for name in ("empty/er", "logs", "a/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("logs")
    empty = {"/d/a/deep", "/d/empty/er", "/d/logs", "/d/link"}
    entries = list(LocalDir(tmp_path, "/d").find())
    assert {one.remote for one in entries if one.directory} == empty
    assert {one.remote for one in entries} == empty | {"/d/a/x.log", "/d/full/y"}
    assert found(LocalDir(tmp_path, "/d", ["**/*.log", "logs", "empty"])) == ["/d/a/deep", "/d/full/y", "/d/link"]
    assert found(LocalDir(tmp_path, "/d", ~FilePatternMatcher("**/y"))) == ["/d/full/y"]
    assert [tuple(one) for one in LocalDir(tmp_path / "logs", "/var/logs").find()] == [
        ("/var/logs", str(tmp_path / "logs"), "", True)
    ]
    assert found(LocalDir(tmp_path / "logs", "/")) == []


def test_directories_nested_deeper_than_calls(tmp_path: Path) -> None:
    path = "d/" * 1100 + "f"
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    assert found(LocalDir(tmp_path, "/")) == [f"/{path}"]
    remove_deep(tmp_path / "d")  # pytest's own way ends at Python's limit


def test_special_files_are_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert found(LocalDir(tmp_path, "/d")) == []


def test_python_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(
        tmp_path, "onemodule.py", "thepackage/__init__.py", "thepackage/data.json", "thepackage/sub/deep.py",
        "thepackage/.hidden.py", "thepackage/__pycache__/x.pyc", "thepackage/big.txt",
    )  # fmt: skip
    (tmp_path / "thepackage/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert found(PythonSource(["onemodule", "thepackage"], NON_PYTHON_FILES)) == [
        "/root/onemodule.py", "/root/thepackage/__init__.py", "/root/thepackage/sub/deep.py",
    ]  # fmt: skip
    assert found(PythonSource(["thepackage"], ["data.json"])) == [
        "/root/thepackage/__init__.py", "/root/thepackage/big.txt", "/root/thepackage/sub/deep.py",
    ]  # fmt: skip
    with pytest.raises(ModuleNotMountable, match="no_such_thing"):
        found(PythonSource(["no_such_thing"], NON_PYTHON_FILES))
    with pytest.raises(ModuleNotMountable, match="sys"):
        found(PythonSource(["sys"], NON_PYTHON_FILES))


def test_hashes_are_remembered_by_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * _hashing.REMEMBER_FROM)
    os.utime(path, (1, 1))
    cache = _hashing.HashCache(str(tmp_path / "cache" / "hashes.json"))
    digest, _ = cache.get(str(path))
    assert digest == _hashing.hash_file(str(path))
    cache.save()
    monkeypatch.setattr(_hashing, "hash_file", lambda _path: "read again")
    fresh = _hashing.HashCache(str(tmp_path / "cache" / "hashes.json"))
    assert fresh.get(str(path))[0] == digest
    os.utime(path, (2, 2))
    assert fresh.get(str(path))[0] == "read again"
    (tmp_path / "cache" / "hashes.json").write_text("nonsense")
    assert _hashing.HashCache(str(tmp_path / "cache" / "hashes.json")).get(str(path))[0] == "read again"


def test_files_changed_just_now_are_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("1")
    cache = _hashing.HashCache(str(tmp_path / "hashes.json"))
    cache.get(str(path))
    assert cache._known == {}


def test_large_sets_are_cut_to_fit_messages() -> None:
    entries = [FileEntry(f"/data/{'é' * 50}/{number}", "0" * 64, 1) for number in range(5000)]
    parts = _portions(entries)
    assert [entry for part in parts for entry in part] == entries
    assert len(parts) > 1
    assert all(len(MountPut(part).encode()[0]) < MOUNT_HEADER * 1.2 for part in parts)


def test_a_change_to_a_large_set_leaves_most_of_its_parts_what_they_were() -> None:
    entries = [FileEntry(f"/d{number // 100:03}/{number}", f"{number:064}", 1) for number in range(10_000)]
    before = [mount_id_of(part) for part in _portions(entries)]
    assert 5 <= len(before) <= 20
    changed = [*entries[:5000], FileEntry("/d050/new", "f" * 64, 1), *entries[5001:]]
    longer = [*entries[:100], FileEntry("/d000/zzz", "f" * 64, 1), *entries[100:]]
    for other in (changed, longer, entries[1:]):
        after = [mount_id_of(part) for part in _portions(other)]
        assert len(set(after) - set(before)) <= 2
    assert len(_portions(entries[:400])) == 1


def test_a_name_that_is_not_text_is_told() -> None:
    entries = [FileEntry("/good", "0" * 64, 1), FileEntry("/bad\udcff", "0" * 64, 1)]
    with pytest.raises(InvalidError, match=r"UTF-8.*ignore="):
        _mount_id(entries)


# -- include_source -------------------------------------------------------------------------------

SHOW = """
import json, sys
from modal._source import source_of

def f(): ...

source = source_of(f.__module__)
print(json.dumps([source.kind, source.module, sorted(one.remote for one in source.files.find())]))
"""


def run(tmp_path: Path, *arguments: str) -> list[object]:
    import json

    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    result: list[object] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_script_brings_itself(tmp_path: Path) -> None:
    (tmp_path / "01_my-script.py").write_text(SHOW)
    tree(tmp_path, "other.py")
    assert run(tmp_path, "01_my-script.py") == ["file", "01_my-script", ["/root/01_my-script.py"]]


def test_a_module_brings_its_package(tmp_path: Path) -> None:
    tree(tmp_path, "other.py")
    for path in ("pkg/sub/mod.py", "pkg/util.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(SHOW)
    (tmp_path / "pkg/__init__.py").write_text("")
    (tmp_path / "pkg/sub/__init__.py").write_text("")
    (tmp_path / "pkg/data.csv").write_text("")
    expected = ["/root/pkg/__init__.py", "/root/pkg/sub/__init__.py", "/root/pkg/sub/mod.py", "/root/pkg/util.py"]
    assert run(tmp_path, "-m", "pkg.sub.mod") == ["package", "pkg.sub.mod", expected]
    assert run(tmp_path, "-c", "import pkg.util") == ["package", "pkg.util", expected]
    assert run(tmp_path, "pkg/util.py") == ["file", "util", ["/root/util.py"]]


def test_namespace_packages_and_main_modules(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "__main__.py").write_text(SHOW)
    assert run(tmp_path, "-m", "space") == ["package", "space.__main__", ["/root/space/__main__.py"]]


def test_a_top_level_module_brings_its_file(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text(SHOW)
    assert run(tmp_path, "-c", "import single") == ["file", "single", ["/root/single.py"]]
    assert run(tmp_path, "-m", "single") == ["file", "single", ["/root/single.py"]]


def test_code_without_a_file_is_serialized(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import json, modal
        app = modal.App()
        @app.function()
        def f(): ...
        definition = f._definition
        print(json.dumps([definition.serialized, definition.source().kind, definition.source_files()]))
    """)
    assert run(tmp_path, "-c", code) == [True, "serialized", None]


def test_unknown_modules_are_an_error() -> None:
    with pytest.raises(InvalidError, match="serialized=True"):
        source_of("never.loaded")
