"""`modal volume put` and `get` of many files, killed in the middle, go on where they were."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = pytest.mark.acceptance

PATIENCE = 200.0  # seconds
FILES = 10_000 if os.environ.get("INTERMODAL_SOAK") else 4_000


@pytest.fixture(params=["here", "elsewhere"])
def client(platform: Platform, request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables of a client: one of this machine, which uses the object store's files, and one that sends all."""
    if request.param == "here":
        return {}
    token = platform.intermodal("token", "new").text
    (token_id,), (secret,) = re.findall(r"\b(ak-\S+)", token), re.findall(r"\b(as-\S+)", token)
    address = re.findall(r"tcp://[\w.:]+", platform.intermodal("status").out)[0]
    return {"MODAL_SERVER_URL": address, "MODAL_TOKEN_ID": token_id, "MODAL_TOKEN_SECRET": secret}


def kill_when(platform: Platform, env: dict[str, str], moment: Callable[[], bool], *command: str | Path) -> None:
    process = platform.start("modal", *command, env=env)
    until = time.monotonic() + PATIENCE
    while not moment():
        assert process.poll() is None, "it was over before it could be interrupted"
        assert time.monotonic() < until
    process.kill()
    process.communicate()


def identities(root: Path) -> dict[str, int]:
    """Every whole file below a directory, with its inode: a file that is written again has another."""
    whole = [path for path in root.glob("[0-9a-z]*/*") if path.is_file() and not path.name.endswith(".modal-partial")]
    return {str(path.relative_to(root)): path.stat().st_ino for path in whole}


def test_interrupted(platform: Platform, client: dict[str, str], tmp_path: Path) -> None:
    count = FILES if client else 2_000
    source = tmp_path / "source"
    for number in range(count):
        folder = source / f"d{number // 500}"
        if number % 500 == 0:
            folder.mkdir(parents=True)
        (folder / str(number)).write_bytes(os.urandom(8) * 40)
    name = f"interrupted-{len(client)}"
    assert platform.modal("volume", "create", name, env=client).code == 0
    objects = platform.home / "volumes/objects"

    def stored() -> int:
        return sum(len(os.listdir(folder)) for folder in objects.glob("[0-9a-f][0-9a-f]"))

    before = stored()
    kill_when(platform, client, lambda: stored() > before + count // 5, "volume", "put", name, source, "/f")
    sent = identities(objects)
    assert platform.modal("volume", "ls", name, env=client).out == ""  # all or nothing
    again = platform.modal("volume", "put", name, source, "/f", env=client)
    assert again.code == 0, again.text
    assert f"({count} files" in again.text
    now = identities(objects)
    assert {path: now[path] for path in sent} == sent  # what had been sent was not sent again

    target = tmp_path / "target"

    def fetched() -> bool:
        return target.is_dir() and sum(len(os.listdir(folder)) for folder in target.glob("d*")) > count // 5

    kill_when(platform, client, fetched, "volume", "get", name, "/f", target)
    had = identities(target)
    assert 0 < len(had) < count
    again = platform.modal("volume", "get", name, "/f", target, env=client)
    assert again.code == 0, again.text
    now = identities(target)
    assert {path: now[path] for path in had} == had
    assert not list(target.rglob("*.modal-partial"))
    assert sorted(now) == sorted(identities(source))
    assert len(list(target.iterdir())) == len(list(source.iterdir()))
    for path in now:
        assert (target / path).read_bytes() == (source / path).read_bytes()
    assert platform.modal("volume", "delete", "-y", name).code == 0


@pytest.mark.parametrize("client", ["elsewhere"], indirect=True)
@pytest.mark.parametrize("damaged", [False, True])
def test_a_large_file(platform: Platform, client: dict[str, str], tmp_path: Path, damaged: bool) -> None:
    """From elsewhere: what has come is kept, checked, and not fetched again."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(1 << 20) * 96)
    assert platform.modal("volume", "create", "large", env=client).code == 0
    assert platform.modal("volume", "put", "large", source, "/large", env=client).code == 0

    def partial() -> Path | None:
        return next(tmp_path.glob("target.*.modal-partial"), None)

    def begun() -> bool:
        found = partial()
        return found is not None and found.stat().st_size > 4 << 20

    kill_when(platform, client, begun, "volume", "get", "large", "/large", target)
    left = partial()
    assert left is not None
    inode = left.stat().st_ino
    if damaged:
        with left.open("r+b") as file:
            file.write(b"damaged")
    assert not target.exists()
    again = platform.modal("volume", "get", "large", "/large", target, env=client)
    assert again.code == 0, again.text
    assert target.stat().st_ino == inode
    assert target.read_bytes() == source.read_bytes()
    assert partial() is None
    assert platform.modal("volume", "delete", "-y", "large").code == 0
