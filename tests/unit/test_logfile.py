"""A process's own log gets a new file in time, and on a full disk stays what it is."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal import logfile


@contextlib.contextmanager
def log_in(folder: Path) -> Iterator[Path]:
    """A log that stdout and stderr go to, as in a server."""
    path = folder / "server.log"
    kept = os.dup(1), os.dup(2)
    descriptor = logfile.open_log(path)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield path
    finally:
        for number, before in enumerate(kept, 1):
            os.dup2(before, number)
            os.close(before)


def test_a_full_one_is_followed_by_a_new_one(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        os.write(2, b"before\n")
        assert logfile.rotate(log, 3)
        os.write(1, b"after\n")
        assert (log.read_bytes(), log.with_name("server.log.1").read_bytes()) == (b"after\n", b"before\n")
        assert not logfile.rotate(log, 100)


def test_on_a_full_disk_it_stays_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with log_in(tmp_path) as log:
        os.write(2, b"before\n")
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            with pytest.raises(OSError, match="No space"):
                logfile.rotate(log, 3)
        os.write(2, b"then\n")
        assert log.read_bytes() == b"before\nthen\n"
        assert logfile.rotate(log, 3)
