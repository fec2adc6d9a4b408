"""Layers that are mounted and not unpacked show what unpacked ones show, and live as they do."""

from __future__ import annotations

import functools
import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intermodal.worker.images import Images, layer_mounts, registry_index, registry_unpack
from intermodal.worker.images import registry as registry_module
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.merge import is_whiteout
from intermodal.worker.images.registry_reference import parse_reference
from intermodal.worker.images.trees import survey
from tests.oci import layouts
from tests.oci.bases import SETTINGS, base_layer
from tests.oci.layouts import Layout, archive, directory, entry, file, link
from tests.oci.registry_server import RegistryServer, why_no_registry

from .conftest import Builder, run
from .test_registry import from_registry


def why_not() -> str:
    with tempfile.TemporaryDirectory() as name:
        return layer_mounts.problem(Path(name))


pytestmark = [pytest.mark.containers, pytest.mark.skipif(bool(why_not()), reason=why_not())]
with_registry = pytest.mark.skipif(bool(why_no_registry()), reason=why_no_registry())


# -- the same tree, whatever is in the archive

NAMES = st.sampled_from(["a", "b", "ü", "-x", "long" * 50, ".hidden", "A b"])
PLACES = st.lists(NAMES, max_size=2).map("/".join)


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    made: dict[str, str] = {"": "directory"}
    members: list[tuple[tarfile.TarInfo, bytes]] = []

    def add(name: str, kind: str, info: tarfile.TarInfo, data: bytes = b"") -> None:
        info.mode = draw(st.sampled_from([0o644, 0o755, 0o4755, 0o1777, 0o600]))
        info.uid, info.gid = draw(st.sampled_from([0, 1000, 70_000])), draw(st.sampled_from([0, 55]))
        info.mtime = draw(st.sampled_from([0, 1_700_000_000, 1_700_000_000.25]))
        if draw(st.booleans()) and kind in ("directory", "file"):
            info.pax_headers = {"SCHILY.xattr.user.note": draw(st.text("xyz", max_size=9)), "comment": "c"}
        info.size = len(data)
        made[name] = kind
        members.append((info, data))

    for _ in range(draw(st.integers(0, 25))):
        above = draw(st.sampled_from([name for name, kind in made.items() if kind == "directory"]))
        last = draw(NAMES)
        name = f"{above}/{last}" if above else last
        if name in made:
            continue
        kind = draw(st.sampled_from(["directory", "file", "file", "link", "hard", "gone", "opaque", "fifo"]))
        info = tarfile.TarInfo(f"./{name}" if draw(st.booleans()) else name)
        files = [one for one, of in made.items() if of == "file"]
        if kind == "directory":
            info.type = tarfile.DIRTYPE
            add(name, kind, info)
        elif kind == "file":
            add(name, kind, info, draw(st.sampled_from([b"", b"x", b"y" * 511, b"z" * 512, b"w" * 5000])))
        elif kind == "link":
            info.type, info.linkname = tarfile.SYMTYPE, draw(st.sampled_from(["a", "../b", "/x" * 300]))
            add(name, kind, info)
        elif kind == "hard" and files:
            info.type, info.linkname = tarfile.LNKTYPE, draw(st.sampled_from(files))
            add(name, kind, info)
        elif kind == "gone" and len(last) < 200:
            add(name, kind, tarfile.TarInfo(f"{above}/.wh.{last}"))
        elif kind == "opaque":
            members.append((tarfile.TarInfo(f"{above}/.wh..wh..opq"), b""))
        elif kind == "fifo":
            info.type = tarfile.FIFOTYPE
            add(name, kind, info)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def attributes(root: Path) -> dict[str, dict[str, bytes]]:
    found = {}
    for path in sorted([root, *root.rglob("*")]):
        names = os.listxattr(path, follow_symlinks=False)
        found[str(path.relative_to(root))] = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    return found


def check_same(tar: bytes, place: Path) -> None:
    blob, unpacked, mounted = place / "blob", place / "unpacked", place / "mounted"
    blob.write_bytes(tar)
    for path in (unpacked, mounted):
        path.mkdir(mode=0o755)
    told = registry_unpack.unpack(str(blob), str(unpacked))
    indexed = registry_index.index(str(blob), str(place / "mounted.tar"), str(place / "mounted.erofs"))
    assert indexed == {**told, "implied": []}
    mounts = layer_mounts.LayerMounts(place)
    assert mounts.ready("mounted")
    try:
        for path in unpacked.rglob("*"):
            if is_whiteout(path.lstat()):  # these have the time of the unpacking
                os.utime(path, (0, 0), follow_symlinks=False)
        assert survey(mounted, content=True)[1:] == survey(unpacked, content=True)[1:]
        assert attributes(mounted) == attributes(unpacked)
        for path in unpacked.rglob("*"):
            assert path.lstat().st_nlink == (mounted / path.relative_to(unpacked)).lstat().st_nlink, path
    finally:
        mounts.close()
        assert not os.path.ismount(mounted)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(archives())
def test_a_mounted_layer_shows_what_an_unpacked_one_does(tmp_path_factory: pytest.TempPathFactory, tar: bytes) -> None:
    check_same(tar, tmp_path_factory.mktemp("same"))


def test_directories_of_many_names_and_nothing_at_all(tmp_path: Path) -> None:
    many = [file(f"many/{'n' * (number % 200)}{number}", str(number)) for number in range(3000)]
    for name, tar in (("empty", archive()), ("many", archive(directory("many"), *many))):
        (tmp_path / name).mkdir()
        check_same(tar, tmp_path / name)


@pytest.mark.parametrize(
    "tar",
    [
        archive(file("no/directory", "x")),
        archive(directory("real"), link("way", "real"), file("way/x", "x")),
        archive(directory("d"), file("d/x", "x"), entry("d", tarfile.REGTYPE)),
        archive(entry("c", tarfile.CHRTYPE)),
        archive(file("x", "x"), file(".wh.x")),
    ],
    ids=["implied", "by-link", "replaced", "like-a-whiteout", "whiteout-of-its-own"],
)
def test_what_does_not_suit_is_left_to_unpacking(tmp_path: Path, tar: bytes) -> None:
    (tmp_path / "blob").write_bytes(tar)
    with pytest.raises(registry_index.Unsuited):
        registry_index.index(str(tmp_path / "blob"), str(tmp_path / "a"), str(tmp_path / "i"))


# -- as layers


@functools.cache
def changes() -> layouts.LayerFile:
    noise, script = random.Random(1).randbytes(5000), "#!/bin/sh\necho ran\n"
    return layouts.gzipped(
        archive(
            *(directory("data"), file("data/noise", noise), file("data/run", script, 0o755)),
            *(directory("etc"), file("etc/.wh.hostname")),
            *(directory("usr"), directory("usr/lib"), file("usr/lib/os-release", "ours\n")),
        )
    )


@pytest.fixture
def image(builder: Builder, registry: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image that is mounted; under the name "small" without its base."""
    monkeypatch.delenv(layer_mounts.SETTING, raising=False)
    monkeypatch.setattr(registry_module, "WORTH_MOUNTING", 1000)
    layout = Layout(tmp_path / "layout")
    layout.image("it", [base_layer(), changes()], SETTINGS)
    layout.image("small", [changes()], SETTINGS)
    registry.push(layout.path, "it", "mounted:1", "--preserve-digests")
    registry.push(layout.path, "small", "small:1", "--preserve-digests")
    return f"{registry.host}/mounted:1"


@with_registry
async def test_a_mounted_image_is_built_upon_and_survives_its_worker(builder: Builder, image: str) -> None:
    steps = [
        run("data/run; cat /etc/os-release; ls /etc/hostname 2>&1 | wc -l; echo more >> /data/noise; rm /data/run"),
        run("wc -c < /data/noise; ls /data"),
    ]
    config = await builder.build(*steps, base=from_registry(image))
    assert builder.printed.split()[-5:] == ["ran", "ours", "1", "5005", "noise"]
    layers = builder.home.layers
    assert [(layers / f"{one}.erofs").exists() for one in config.layers] == [True, True, False, False]
    copy = "COPY --from=one /data/run /usr/lib/os-release /copied/"
    text = f"FROM {image} AS one\nFROM {image}\n{copy}\nRUN cat /copied/*"

    await builder.build(base={"kind": "dockerfile", "text": text})
    assert builder.printed.endswith("ours\n#!/bin/sh\necho ran\n")
    await builder.images.close()
    assert list((layers / config.layers[1]).iterdir()) == []
    again = Images(builder.home, builder.containers)
    await again.open()
    try:
        found = again.config("im-1")
        assert found is not None
        assert (again.layer_paths(found)[1] / "data/run").read_text().endswith("ran\n")
        archive_path = layers / f"{config.layers[1]}.tar"
        data = bytearray(archive_path.read_bytes())
        at = data.index(b"echo ran")
        data[at : at + 8] = b"echo RAN"
        archive_path.write_bytes(data)
    finally:
        await again.close()
    env = {**os.environ, "INTERMODAL_HOME": str(builder.home.path)}
    words = [sys.executable, "-m", "intermodal", "images", "verify"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-2:]) == (1, ["1", "damaged."]), done.stdout + done.stderr
    assert not archive_path.exists()
    third = Images(builder.home, builder.containers)
    await third.open()
    try:
        assert third.config("im-1") is None
        rebuilt = await third.build("im-1", [from_registry(image), *steps], {}, lambda _entry: None)
        assert (third.layer_paths(rebuilt)[1] / "data/run").read_text().endswith("ran\n")
    finally:
        await third.close()


@with_registry
async def test_a_machine_that_cannot_mount_unpacks(
    builder: Builder, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_words: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(layer_mounts, "mount", refuse)
    (layer,) = await pulled(builder, image.replace("mounted", "small"))
    assert not list(builder.home.layers.glob("*.erofs"))
    assert (layer / "data/run").exists()


@with_registry
async def test_damage_on_the_way_is_told(builder: Builder, image: str, registry: RegistryServer) -> None:
    blob = registry.blob(layouts.digest_of(changes().blob))
    whole = blob.read_bytes()
    blob.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(StepError):
            await pulled(builder, image.replace("mounted", "small"))
    finally:
        blob.write_bytes(whole)
    assert not [one for one in builder.names("layers") if one.startswith(".new")]
    (layer,) = await pulled(builder, image.replace("mounted", "small"))
    assert os.path.ismount(layer)


async def pulled(builder: Builder, tag: str) -> list[Path]:
    base = await builder.images.registry.pull(parse_reference(tag), None, "", lambda _kind, _text: None)
    return builder.images.layer_paths(base.config)
