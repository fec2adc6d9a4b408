"""Layers of registries become directories for overlayfs, and nothing outside of them."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intermodal.worker.images import registry_unpack
from intermodal.worker.images.registry_settle import needs_settling, settle
from intermodal.worker.images.registry_unpack import Corrupt, Refused, unpack
from tests.oci import layouts
from tests.oci.layouts import archive, directory, entry, file, link


def unpacked(tmp_path: Path, data: bytes) -> tuple[Path, dict[str, object]]:
    blob, root = tmp_path / "blob", tmp_path / "root"
    blob.write_bytes(data)
    root.mkdir()
    return root, unpack(str(blob), str(root))


@pytest.mark.parametrize(
    ("form", "tools"),
    [
        *((form, True) for form in (layouts.gzipped, layouts.zstd, layouts.plain, layouts.estargz)),
        *((form, False) for form in (layouts.gzipped, layouts.plain, layouts.estargz)),
    ],
)
def test_every_compression(form, tools: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    if not tools:
        monkeypatch.setattr(registry_unpack, "GZIP_TOOLS", ())
    layer = form(archive(directory("d", 0o750), file("d/f", "text", 0o640, mtime=1234)))
    root, answer = unpacked(tmp_path, layer.blob)
    assert (root / "d/f").read_text() == "text"
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o750
    assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0o640
    assert (root / "d/f").stat().st_mtime == 1234
    assert answer["digest"] == layouts.digest_of(layer.tar)
    assert answer["implied"] == []


def test_several_gzip_members_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive(file("a", os.urandom(3 << 20)))
    halves = gzip.compress(data[: 1 << 20]) + gzip.compress(data[1 << 20 :])
    assert unpacked(tmp_path, halves)[1]["digest"] == layouts.digest_of(data)
    for number, tools in enumerate((registry_unpack.GZIP_TOOLS, ())):
        monkeypatch.setattr(registry_unpack, "GZIP_TOOLS", tools)
        for cut, damaged in enumerate((halves[:-5000], halves[:5000] + b"damage" + halves[5006:])):
            place = tmp_path / f"{number}-{cut}"
            place.mkdir()
            with pytest.raises(Corrupt):
                unpacked(place, damaged)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes")
def test_whiteouts_become_overlayfs_own(tmp_path: Path) -> None:
    root, answer = unpacked(
        tmp_path,
        archive(
            *(file("usr/.wh.gone"), directory("all"), file("all/.wh..wh..opq"), file("all/new", "x")),
            *(file(".wh.again"), directory("again"), file(".wh..wh.plnk"), file("late"), file(".wh.late")),
        ),
    )
    gone = (root / "usr/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(root / "all", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(root / "again", "trusted.overlay.opaque") == b"y"
    assert (root / "late").is_file()
    assert sorted(one.name for one in root.iterdir()) == ["again", "all", "late", "usr"]
    assert answer["implied"] == ["usr"]


@pytest.mark.skipif(os.geteuid() != 0, reason="sets attributes and owners")
def test_attributes_owners_and_links(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    headers = {
        "SCHILY.xattr.security.capability": capability.decode("latin-1"),
        "SCHILY.xattr.user.note": "kept",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
    }
    root, _ = unpacked(
        tmp_path,
        archive(
            file("tool", "x", 0o4755, uid=12, gid=34, pax_headers=headers),
            entry("same", tarfile.LNKTYPE, linkname="./tool"),
            entry("pipe", tarfile.FIFOTYPE, mode=0o600),
            link("way", "tool"),
        ),
    )
    found = (root / "tool").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o4755)
    assert (root / "same").stat().st_ino == found.st_ino
    assert os.readlink(root / "way") == "tool"
    assert os.getxattr(root / "tool", "user.note") == b"kept"
    assert sorted(os.listxattr(root / "tool")) == ["security.capability", "user.note"]


def test_names_stay_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root, answer = unpacked(
        tmp_path,
        archive(
            *(
                file("/absolute", "x"),
                link("way", str(outside)),
                file("way/in", "x"),
                link("up", "../../.."),
                file("up/b"),
            ),
            *(link("etc", "usr/etc"), directory("usr"), directory("usr/etc"), file("etc/conf", "c")),
        ),
    )
    assert list(outside.iterdir()) == []
    assert (root / "absolute").exists()
    assert (root / str(outside).lstrip("/") / "in").exists()
    assert (root / "b").exists()
    assert (root / "usr/etc/conf").read_text() == "c"
    assert str(outside).lstrip("/") in answer["implied"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([file("../evil")], "leads out"),
        ([file("a/../../evil")], "leads out"),
        ([entry("h", tarfile.LNKTYPE, linkname="../../etc/passwd")], "leads out"),
        ([entry("h", tarfile.LNKTYPE, linkname="etc/passwd")], "not in the same layer"),
        ([link("a", "b"), link("b", "a"), file("a/x")], "in circles"),
        ([file("d/.wh...")], "hides no file"),
    ],
)
def test_what_is_refused(entries: list[tarfile.TarInfo], why: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=why):
        unpacked(tmp_path, archive(*entries))


def test_later_entries_win(tmp_path: Path) -> None:
    root, _ = unpacked(
        tmp_path,
        archive(
            *(
                file("a", "1"),
                file("a", "2"),
                directory("d"),
                file("d/x"),
                file("d", "file"),
                link("l", "d"),
                directory("l"),
            ),
            *(file("f", "x"), file("f/inner", "y")),
        ),
    )
    assert (root / "a").read_text() == "2"
    assert (root / "d").read_text() == "file"
    assert not (root / "l").is_symlink()
    assert (root / "f/inner").read_text() == "y"


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "c"]), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            NAMES,
            st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
            NAMES,
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_nothing_is_ever_written_outside(entries: list[tuple[list[str], bytes, list[str], bool]]) -> None:
    members = []
    for name, kind, target, absolute in entries:
        made = entry("/".join(name) or "x", kind)
        made.linkname = ("/" if absolute else "") + "/".join(target)
        members.append((made, b"data") if kind == tarfile.REGTYPE else made)
    with tempfile.TemporaryDirectory() as outer:
        place = Path(outer) / "p/q/r"
        place.mkdir(parents=True)
        try:
            unpacked(place, archive(*members))
        except Refused:
            pass
        assert sorted(one.name for one in place.iterdir()) == ["blob", "root"]
        assert [one.name for one in Path(outer).iterdir()] == ["p"]
        assert [one.name for one in (Path(outer) / "p").iterdir()] == ["q"]
        assert [one.name for one in (Path(outer) / "p/q").iterdir()] == ["r"]


@pytest.mark.skipif(os.geteuid() != 0, reason="sets owners")
def test_a_layer_is_fitted_to_those_below(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "usr/lib").mkdir(parents=True)
    (base / "usr/lib/old").write_text("old")
    (base / "lib").symlink_to("usr/lib")
    (base / "secret").mkdir()
    (base / "secret").chmod(0o700)
    (base / "plain").mkdir()
    (base / "plain").chmod(0o755)
    top = tmp_path / "top"
    for name in ("lib/sub", "secret", "plain", "fresh"):
        (top / name).mkdir(parents=True)
        (top / name / "file").write_text(name)
    assert not needs_settling(["plain", "fresh"], [base])
    implied = ["lib", "lib/sub", "secret", "plain", "fresh"]
    assert needs_settling(implied, [base])
    stage = tmp_path / "stage"
    (stage / "upper").mkdir(parents=True)
    settle(top, stage, implied, [base])
    upper = stage / "upper"
    assert (upper / "usr/lib/sub/file").read_text() == "lib/sub"
    assert not (upper / "lib").exists()
    assert stat.S_IMODE((upper / "secret").stat().st_mode) == 0o700
    assert (top / "lib/sub/file").stat().st_ino == (upper / "usr/lib/sub/file").stat().st_ino
    assert [one.name for one in stage.iterdir()] == ["upper"]


def test_the_program_answers_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "root").mkdir()
    before = os.umask(0o022)
    try:
        assert registry_unpack.main([str(tmp_path / "missing"), str(tmp_path / "root")]) == 1
        assert '"reason": "tool"' in capsys.readouterr().out
        (tmp_path / "junk").write_bytes(io.BytesIO(b"\x1f\x8bjunk").getvalue())
        assert registry_unpack.main([str(tmp_path / "junk"), str(tmp_path / "root")]) == 1
        assert '"reason": "corrupt"' in capsys.readouterr().out
    finally:
        os.umask(before)
