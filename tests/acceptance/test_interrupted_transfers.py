"""`modal volume put` and `get` of many files, killed in the middle, go on where they were."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import PATIENCE, Platform

pytestmark = pytest.mark.acceptance

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


class TooLateError(Exception):
    """The machine was quicker than the test: it is to be tried with more."""


def with_more(attempt: Callable[[int], None]) -> None:
    """Call it with factors that grow until it is not over before it can be interrupted."""
    for factor in (1, 4, 16):
        with contextlib.suppress(TooLateError):
            return attempt(factor)
    pytest.fail("it was over before it could be interrupted, three times over")


def kill_when(
    platform: Platform,
    env: dict[str, str],
    moment: Callable[[], bool],
    whole: Callable[[], bool],
    *command: str | Path,
) -> None:
    """Kill a command at a moment. Raises TooLateError where its work is `whole` by then."""
    process = platform.start("modal", *command, env=env)
    end = time.monotonic() + PATIENCE
    while not moment() and process.poll() is None:
        assert time.monotonic() < end
    process.send_signal(signal.SIGSTOP)
    late = process.poll() is not None or whole()
    process.kill()
    process.communicate()
    if late:
        raise TooLateError


def identities(root: Path) -> dict[str, int]:
    """Every whole file below a directory, with its inode: a file that is written again has another."""
    whole = [path for path in root.glob("[0-9a-z]*/*") if path.is_file() and not path.name.endswith(".modal-partial")]
    return {str(path.relative_to(root)): path.stat().st_ino for path in whole}


def test_interrupted(platform: Platform, client: dict[str, str], tmp_path: Path) -> None:
    with_more(lambda factor: interrupted(platform, client, tmp_path / str(factor), factor))


def interrupted(platform: Platform, client: dict[str, str], place: Path, factor: int) -> None:
    count = (FILES if client else 2_000) * factor
    source = place / "source"
    for number in range(count):
        folder = source / f"d{number // 500}"
        if number % 500 == 0:
            folder.mkdir(parents=True)
        (folder / str(number)).write_bytes(os.urandom(8) * 40)
    name = f"interrupted-{len(client)}-{factor}"
    assert platform.modal("volume", "create", name, env=client).code == 0
    objects = platform.home / "volumes/objects"

    def stored() -> int:
        return sum(len(os.listdir(folder)) for folder in objects.glob("[0-9a-f][0-9a-f]"))

    before = stored()

    def sent_whole() -> bool:
        return stored() >= before + count

    some = before + count // 5
    kill_when(platform, client, lambda: stored() > some, sent_whole, "volume", "put", name, source, "/f")
    sent = identities(objects)
    assert platform.modal("volume", "ls", name, env=client).out == ""  # all or nothing
    again = platform.modal("volume", "put", name, source, "/f", env=client)
    assert again.code == 0, again.text
    assert f"({count} files" in again.text
    now = identities(objects)
    assert {path: now[path] for path in sent} == sent  # what had been sent was not sent again

    target = place / "target"

    def fetched(least: int) -> bool:
        return target.is_dir() and sum(len(os.listdir(folder)) for folder in target.glob("d*")) > least

    kill_when(
        platform, client, lambda: fetched(count // 5), lambda: len(identities(target)) >= count,
        "volume", "get", name, "/f", target,
    )  # fmt: skip
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
    with_more(lambda factor: a_large_file(platform, client, tmp_path / str(factor), damaged, factor))


def a_large_file(platform: Platform, client: dict[str, str], place: Path, damaged: bool, factor: int) -> None:
    place.mkdir()
    source, target = place / "source", place / "target"
    source.write_bytes(os.urandom(1 << 20) * 96 * factor)
    assert platform.modal("volume", "create", "large", env=client).code == 0
    assert platform.modal("volume", "put", "large", source, "/large", env=client).code == 0

    def partial() -> Path | None:
        return next(place.glob("target.*.modal-partial"), None)

    def begun() -> bool:
        found = partial()
        return found is not None and found.stat().st_size > 4 << 20

    try:
        kill_when(platform, client, begun, target.exists, "volume", "get", "large", "/large", target)
    except TooLateError:
        assert platform.modal("volume", "delete", "-y", "large").code == 0
        raise
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
