"""Where the key of secrets lies, and how it moves: never two keys, never a new one in the place of a lost one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring

from intermodal.server.services.vault_keys import SETTING, KeyFile, place_for
from intermodal.server.store.migrations import Refused

OLD, NEW = b"o" * 32, b"n" * 64
IN_RING, IN_FILE = {SETTING: "keyring"}, {SETTING: "file"}


class Ring(KeyringBackend):
    """A keyring that forgets everything with the test."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise RuntimeError("it is locked")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


@pytest.fixture
def ring() -> Iterator[Ring]:
    before, made = keyring.get_keyring(), Ring()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


def test_it_moves_with_the_setting_and_stays_without(ring: Ring, tmp_path: Path) -> None:
    place_for(tmp_path, {}).write(OLD)
    place = place_for(tmp_path, IN_RING)
    assert place.read() == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.keyring"]
    place.write_next(NEW)
    assert place_for(tmp_path, {}).read_next() == NEW
    place.take_next()
    assert (place.read(), place.read_next()) == (NEW, None)
    assert len(ring.entries) == 1
    back = place_for(tmp_path, IN_FILE)
    assert back.read() == NEW
    assert not ring.entries
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.key"]


def test_a_rotation_under_way_moves_too(ring: Ring, tmp_path: Path) -> None:
    file = place_for(tmp_path, {})
    file.write(OLD)
    file.write_next(NEW)
    moved = place_for(tmp_path, IN_RING)
    assert (moved.read(), moved.read_next()) == (OLD, NEW)


def test_two_directories_have_two_entries(ring: Ring, tmp_path: Path) -> None:
    for name, key in (("a", OLD), ("b", NEW)):
        (tmp_path / name).mkdir()
        place_for(tmp_path / name, IN_RING).write(key)
    assert place_for(tmp_path / "a", {}).read() == OLD
    (tmp_path / "a").rename(tmp_path / "moved")  # the note says which entry is its own
    assert place_for(tmp_path / "moved", {}).read() == OLD


def test_an_interrupted_move_goes_on(ring: Ring, tmp_path: Path) -> None:
    place_for(tmp_path, IN_RING).write(OLD)
    (tmp_path / "secrets.key").write_bytes(OLD)  # was not removed any more
    assert place_for(tmp_path, {}).read() == OLD
    assert not (tmp_path / "secrets.key").exists()
    (tmp_path / "secrets.key").write_bytes(OLD)
    ring.entries.clear()  # the way back, before the note was removed
    assert place_for(tmp_path, IN_FILE).read() == OLD
    assert not (tmp_path / "secrets.keyring").exists()


def test_what_is_refused(ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="neither 'file' nor 'keyring'"):
        place_for(tmp_path, {SETTING: "elsewhere"})
    place_for(tmp_path, IN_RING).write(OLD)
    (tmp_path / "secrets.key").write_bytes(NEW)
    with pytest.raises(Refused, match="hold different keys"):
        place_for(tmp_path, {})
    (tmp_path / "secrets.key").unlink()
    ring.locked = True
    with pytest.raises(Refused, match=r"it is locked.*unlock it"):
        place_for(tmp_path, {})
    ring.locked = False
    entries = dict(ring.entries)
    ring.entries.clear()
    for setting in ({}, IN_RING, IN_FILE):
        with pytest.raises(Refused, match="is missing: restore it"):
            place_for(tmp_path, setting)
    ring.entries.update(dict.fromkeys(entries, "no key!"))
    with pytest.raises(Refused, match="is no key"):
        place_for(tmp_path, {})
    keyring.set_keyring(NoKeyring())
    with pytest.raises(Refused, match="no keyring here"):
        place_for(tmp_path, {})
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(Refused, match=r"pip install 'intermodal\[keyring\]'"):
        place_for(tmp_path, {})


def test_writing_the_key_leaves_the_next_one(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "secrets.key")
    file.write_next(NEW)
    file.write(OLD)
    assert (file.read(), file.read_next()) == (OLD, NEW)
    assert len(list(tmp_path.iterdir())) == 2
