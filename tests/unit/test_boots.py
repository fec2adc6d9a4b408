"""What is suspect after the machine was down, and what becomes of it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from intermodal import boots
from intermodal.boots import FRESH, Boots, changed_since, tree_changed_since
from intermodal.contents import Contents
from intermodal.files import Files
from intermodal.home import Home
from intermodal.worker.images.layers import Layer, LayerStore
from intermodal.worker.images.mending import mend_caches
from intermodal.worker.images.platform import Platform
from intermodal.worker.volumes.volumes import Volumes
from modal._protocol.messages.function import VolumeMount
from modal._protocol.messages.volume import VOLUME


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The boot that it is in, to be changed."""
    boot = ["first"]
    monkeypatch.setattr(boots, "boot_id", lambda: boot[0])
    return boot


def begun(note: Path) -> Boots:
    made = Boots(note)
    made.begin()
    return made


def test_nothing_is_suspect_as_long_as_the_machine_runs(tmp_path: Path, machine: list[str]) -> None:
    assert begun(tmp_path / "note").suspect is None
    assert begun(tmp_path / "note").suspect is None


def test_after_another_boot_what_is_newer_than_minutes_before_the_last_sign_of_life_is_suspect(
    tmp_path: Path, machine: list[str]
) -> None:
    begun(tmp_path / "note")
    os.utime(tmp_path / "note", (5000.0, 5000.0))
    machine[0] = "second"
    assert begun(tmp_path / "note").suspect == 5000.0 - FRESH


def test_it_stays_suspect_until_it_was_looked_at(tmp_path: Path, machine: list[str]) -> None:
    begun(tmp_path / "note")
    os.utime(tmp_path / "note", (5000.0, 5000.0))
    machine[0] = "second"
    begun(tmp_path / "note")  # and killed
    assert begun(tmp_path / "note").suspect == 5000.0 - FRESH
    machine[0] = "third"
    again = begun(tmp_path / "note")
    assert again.suspect == 5000.0 - FRESH
    again.mended()
    assert begun(tmp_path / "note").suspect is None


def test_a_note_that_cannot_be_read_makes_everything_suspect(tmp_path: Path, machine: list[str]) -> None:
    (tmp_path / "note").write_bytes(bytes(40))
    assert begun(tmp_path / "note").suspect == 0.0


def test_a_note_that_cannot_be_written_hinders_nobody(tmp_path: Path, machine: list[str]) -> None:
    assert begun(tmp_path / "none" / "note").suspect is None
    begun(tmp_path / "note")
    os.utime(tmp_path / "note", (5000.0, 5000.0))
    (tmp_path / ".note.part").mkdir()
    machine[0] = "second"
    begun(tmp_path / "note").mended()
    machine[0] = "third"
    assert begun(tmp_path / "note").suspect == 5000.0 - FRESH  # nobody could note that it was looked at


def test_a_touch_is_a_sign_of_life(tmp_path: Path, machine: list[str]) -> None:
    one = begun(tmp_path / "note")
    os.utime(tmp_path / "note", (5000.0, 5000.0))
    before = time.time()
    one.touch()
    machine[0] = "second"
    suspect = begun(tmp_path / "note").suspect
    assert suspect is not None
    assert suspect >= before - FRESH - 1.0


def test_what_changed_is_seen_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    now = time.time()
    assert tree_changed_since(tmp_path / "a", now - 3600)
    assert not tree_changed_since(tmp_path / "a", now + 3600)
    assert not changed_since(tmp_path / "none", 0.0)


def test_a_file_that_is_half_is_not_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    files = Files(home)
    whole, half = b"whole", b"half of it"
    digests = [hashlib.sha256(content).hexdigest() for content in (whole, half)]
    for digest, content in zip(digests, (whole, half), strict=True):
        files.put(digest, content)
    program = files.with_mode(digests[0], 0o755)
    files.path(digests[1]).write_bytes(b"half")
    assert Files(home).mend(time.time() + 3600) == 0  # nothing is so new
    assert Files(home).mend(time.time() - 3600) == 2
    assert Files(home).missing(digests) == [digests[1]]
    assert not program.exists()  # made again when it is needed


def test_files_are_made_durable_by_name(tmp_path: Path) -> None:
    files = Files(Home(tmp_path))
    contents = [b"%d" % number for number in range(40)]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    for digest, content in zip(digests, contents, strict=True):
        files.put(digest, content)
    files.make_durable(digests[:3])
    files.make_durable(digests)


def test_contents_that_no_version_names_go(tmp_path: Path) -> None:
    objects = Contents(tmp_path / "objects")
    objects.prepare()
    digests = []
    for content in (b"named", b"not named"):
        digests.append(hashlib.sha256(content).hexdigest())
        with objects.writer(digests[-1]) as writer:
            writer.write(content)
            writer.commit()
    (tmp_path / "objects" / ".incoming" / f"begun-{'0' * 64}").write_bytes(b"some")
    since = time.time() - 3600
    assert objects.mend(since, None) == 3
    assert objects.mend(since, {digests[0]}) == 2
    assert objects.missing(digests) == [digests[1]]
    assert objects.mend(time.time() + 3600, set()) == 0


def test_layers_of_an_earlier_boot_that_the_disk_may_lack_go(
    tmp_path: Path, machine: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from intermodal.worker.images import layers

    monkeypatch.setattr(layers, "boot_id", lambda: machine[0])
    home = Home(tmp_path)
    store = LayerStore(home)
    made = []
    for key in ("settled", "not"):
        with store.stage() as stage:
            (stage / "upper" / "file").write_text(key)
            made.append(store.adopt(stage / "upper", Layer(key, key)))
    store.fingerprint(store.sync(made[0]))
    (home.layers / "damaged.json").write_bytes(bytes(10))
    machine[0] = "second"
    after = LayerStore(home)
    after.mend()
    assert [layer.key for layer in after.all()] == ["settled"]
    assert after.is_sound(after.all()[0], content=True)
    assert sorted(path.name for path in home.layers.iterdir()) == ["settled", "settled.json"]
    assert json.loads((home.layers / "settled.json").read_text())["digest"]


def test_what_containers_see_of_the_platform_is_made_again(tmp_path: Path) -> None:
    platform = Platform(Home(tmp_path))
    sources = platform.path() / "lib" / "modal" / "__init__.py"
    whole = sources.read_bytes()
    sources.write_bytes(b"")  # as a loss of power leaves it
    after = Platform(Home(tmp_path))
    after.mend(time.time() - 3600)
    assert (after.path() / "lib" / "modal" / "__init__.py").read_bytes() == whole


def test_a_cache_with_something_new_goes_as_a_whole_and_tags_stay_what_they_were(tmp_path: Path) -> None:
    places = (
        "uv-cache/archive/a",
        "registry/tags/one.json",
        "registry/pulls/one/blob",
        "dockerfile/one/a",
        "pip-cache/a",
    )
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("x")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "uv-cache")
    assert mend_caches(tmp_path, time.time() + 3600) == []
    gone = {str(path.relative_to(tmp_path)) for path in mend_caches(tmp_path, time.time() - 3600)}
    assert gone == {"uv-cache", "registry/pulls/one", "dockerfile/one", "pip-cache"}
    assert (tmp_path / "registry/tags/one.json").exists()
    assert mend_caches(tmp_path / "none", 0.0) == []


async def test_what_was_not_committed_is_dropped_unless_it_is_known_to_be_on_the_disk(tmp_path: Path) -> None:
    home = Home(tmp_path)
    before = Volumes(home, lambda: None)
    before.open()
    for container in ("ta-lost", "ta-kept"):
        one = before._new(home.volumes / "mounts" / container / "0", container, VolumeMount("/v", VOLUME, "vo-1"))
        one.upper.mkdir(parents=True)
        (one.upper / "file").write_text("x")
        one._write_note()
    one.make_durable()
    await before.close()
    whole, late, after = (Volumes(home, lambda: None) for _ in range(3))
    whole.open()
    assert (whole.has("ta-lost"), whole.has("ta-kept")) == (True, True)
    late.open(time.time() + 3600)  # nothing is so new
    assert (late.has("ta-lost"), late.has("ta-kept")) == (True, True)
    after.open(time.time() - 3600)
    assert (after.has("ta-lost"), after.has("ta-kept")) == (False, True)
    assert not (home.volumes / "mounts" / "ta-lost").exists()
    for opened in (whole, late, after):
        await opened.close()
