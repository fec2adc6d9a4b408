"""What goes wrong around images: downloads that fail, registries that stall, disks that fill, workers that die."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.containers.containers import Containers
from intermodal.worker.images import BuildFailed, Images, debian
from intermodal.worker.images import registry as registry_module
from intermodal.worker.images import registry_transport as transport_module
from intermodal.worker.images.registry_reference import parse_reference
from tests import outside
from tests.images_cache import _NoContainers, lend_base
from tests.oci import layouts
from tests.oci.bases import SETTINGS, base_layer, lend_unpacked
from tests.oci.layouts import Layout, archive, file, link
from tests.oci.registry_server import RegistryServer, why_no_registry

from .conftest import Builder, run
from .test_dockerfiles import Project, project
from .test_registry import from_registry

pytestmark = [pytest.mark.containers, pytest.mark.skipif(bool(why_no_registry()), reason=why_no_registry())]
__all__ = ["project"]

CONTENT = b"from afar\n"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
WEB = f"""
import http.server, io, tarfile
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w:gz") as tar:
    info = tarfile.TarInfo("inside/file")
    info.size = 7
    tar.addfile(info, io.BytesIO(b"packed\\n"))
class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = dict([("/file.txt", {CONTENT!r}), ("/a.tar.gz", packed.getvalue())]).get(self.path.partition("?")[0])
        if self.path == "/moved.txt":
            self.send_response(302)
            self.send_header("Location", "/file.txt")
            body = b""
        elif self.path == "/short.txt":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"cut off")
            return
        else:
            self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Web)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture
def web() -> Iterator[str]:
    with outside.machine(WEB, "203.0.113") as address:
        yield f"http://{address}:8000"


async def test_add_fetches_urls(project: Project, web: str) -> None:
    await project.build(
        f"""FROM BASE
ARG SUM={DIGEST}
ADD --checksum=$SUM {web}/file.txt /one
ADD --chmod=755 {web}/moved.txt {web}/file.txt?x=1 /two/
ADD {web}/a.tar.gz /packed/
ADD --unpack {web}/a.tar.gz /unpacked/
RUN cat /one /two/moved.txt /two/file.txt; stat -c %a /one /two/file.txt; ls /packed; cat /unpacked/inside/file
"""
    )
    afar = CONTENT.decode().strip()
    assert project.builder.printed.splitlines()[-7:] == [afar, afar, afar, "600", "755", "a.tar.gz", "packed"]


async def test_add_says_why_a_url_cannot_be_had(project: Project, web: str) -> None:
    for line, why in (
        (f"{web}/none.txt /x", r"line 2 .*none\.txt could not be fetched: HTTP Error 404"),
        (f"{web}/short.txt /x", r"line 2 .*short\.txt could not be fetched: .*broke off after 7 of 1000 bytes"),
        (f"--checksum=sha256:{'0' * 64} {web}/file.txt /x", rf"line 2 .*has the checksum {DIGEST}, not sha256:0000"),
        (f"{web.replace(':8000', ':9')}/file.txt /x", r"line 2 .*could not be fetched: .*[Rr]efused"),
        (f"{web}/ /x", r"line 2 .*has no name of a file: use RUN"),
    ):
        with pytest.raises(BuildFailed) as caught:
            await project.build(f"FROM BASE\nADD {line}\n")
        assert re.search(why, str(caught.value), re.S), str(caught.value)
    assert not [name for name in project.builder.names("layers") if name.startswith(".new")]


# -- a registry that stalls


class Stalling:
    """A way to a registry on which the answer to a blob stops after some bytes, until `release`."""

    def __init__(self, registry: RegistryServer, after: int) -> None:
        self._to = registry.port
        self._after = after
        self._stalls = True
        self.stalled = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"localhost:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        self._stalls = False

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        blob, sent = False, 0
        with client, socket.create_connection(("127.0.0.1", self._to)) as server, selectors.DefaultSelector() as both:
            both.register(client, selectors.EVENT_READ, server)
            both.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in both.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    try:
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        if source is client and data.startswith(b"GET"):
                            blob, sent = b"/blobs/" in data, 0
                        if source is server and blob:
                            sent += len(data)
                            if self._stalls and sent > self._after:
                                self.stalled.set()
                                both.unregister(server)
                                continue
                        key.data.sendall(data)
                    except OSError:
                        return


SMALL = layouts.gzipped(archive(file("small", "small\n")))


@pytest.fixture
def large(registry: RegistryServer, tmp_path: Path) -> str:
    """An image with a small layer and one of 24 MB; its name without the host."""
    layout = Layout(tmp_path / "layout")
    noise = random.Random(4).randbytes(24 << 20)
    layout.image("large", [base_layer(), SMALL, layouts.plain(archive(file("noise", noise)))], SETTINGS)
    registry.push(layout.path, "large", "large:1", "--preserve-digests")
    return "large:1"


async def test_a_registry_that_stalls_is_named_and_what_arrived_is_kept(
    lent: Builder, registry: RegistryServer, large: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "STALL_SECONDS", 1.0)
    way = Stalling(registry, 1 << 20)
    try:
        with pytest.raises(BuildFailed, match=rf"{way.host} has sent nothing for 1 seconds: build again"):
            await lent.build(base=from_registry(f"{way.host}/{large}"))
        way.release()
        before = len(registry.asked())
        assert await build_prints(lent, f"{way.host}/{large}") == "small\n"
        assert layouts.digest_of(SMALL.blob) not in registry.asked()[before:]  # it had arrived the first time
    finally:
        way.close()


async def test_a_registry_that_never_answers_is_named(lent: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "ANSWER_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"localhost:{silent.getsockname()[1]}"
        with pytest.raises(BuildFailed, match=rf"{host} (cannot be reached|does not answer)"):
            await lent.build(base=from_registry(f"{host}/some/image:1"))


async def build_prints(builder: Builder, tag: str) -> str:
    builder.entries.clear()
    await builder.build(run("cat /small"), base=from_registry(tag))
    return builder.printed.rpartition("\n")[0].rpartition("\n")[2] + "\n"


# -- workers that die, disks that are full

PULLS = """
import asyncio, sys
from intermodal.home import Home
from intermodal.worker.images import Images
from intermodal.worker.images.registry_reference import parse_reference
from tests.images_cache import _NoContainers
async def main():
    images = Images(Home(sys.argv[1]), _NoContainers())
    await images.open()
    await images.registry.pull(parse_reference(sys.argv[2]), None, "", lambda kind, text: None)
asyncio.run(main())
"""


async def test_a_worker_that_is_killed_while_it_pulls_leaves_no_half_layer(
    tmp_path: Path, registry: RegistryServer, large: str
) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    lend_unpacked(home)
    way = Stalling(registry, 4 << 20)
    tag = f"{way.host}/{large}"
    process = subprocess.Popen([sys.executable, "-c", PULLS, str(home.path), tag], cwd=Path(__file__).parents[3])
    try:
        assert await asyncio.to_thread(way.stalled.wait, 200)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        way.release()
    images = Images(home, _NoContainers())
    await images.open()
    try:
        assert not list(home.layers.glob(".new*"))
        config = (await images.registry.pull(parse_reference(tag), None, "", lambda _kind, _text: None)).config
        assert len(config.layers) == 3
        assert (images.layer_paths(config)[2] / "noise").stat().st_size == 24 << 20
        assert not list((home.cache / "registry/pulls").glob("*/"))
    finally:
        way.close()
        await images.close()


async def test_a_disk_that_fills_during_a_pull_is_told_and_freed(
    tmp_path: Path, registry: RegistryServer, large: str
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(small)], check=True)
    try:
        home = Home(small)
        lend_unpacked(home)
        images = Images(home, _NoContainers())
        await images.open()
        with pytest.raises(BuildFailed, match=r"no space is left on the disk.*free some and build again"):
            await images.build("im-1", [from_registry(f"{registry.host}/{large}")], {}, lambda _entry: None)
        await images.close()
        assert not list(home.layers.glob(".new*"))
        disk = os.statvfs(small)
        assert disk.f_bavail * disk.f_frsize > 16 << 20  # what had arrived does not keep the disk full
    finally:
        subprocess.run(["umount", str(small)], check=True)


BUILDS = """
import asyncio, sys
from intermodal.home import Home
from intermodal.worker.containers.containers import Containers
from intermodal.worker.images import Images
async def main():
    home = Home(sys.argv[1])
    containers = Containers(home)
    await containers.open()
    images = Images(home, containers)
    await images.open()
    print("begins", flush=True)
    commands = [f"echo {n} > /f{n}; mkdir -p /d/{n}; seq 3000 > /d/{n}/numbers" for n in range(5)]
    base, last = dict(kind="debian_slim", python_version="3.11"), "echo " + sys.argv[2]
    await images.build("im-1", [base, dict(kind="run", commands=[*commands, last])], {}, lambda entry: None)
asyncio.run(main())
"""


async def test_builds_that_are_killed_at_random_leave_layers_that_are_whole(tmp_path: Path) -> None:
    """Twenty times; the seed is printed."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    home = Home(tmp_path / "home")
    home.path.mkdir()
    await lend_base(home)
    for number in range(20):
        command = [sys.executable, "-c", BUILDS, str(home.path), str(number // 5)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            try:
                process.wait(chance.uniform(0.0, 0.6))  # the moment is what is tried
            except subprocess.TimeoutExpired:
                process.kill()
    subprocess.run([sys.executable, "-c", BUILDS, str(home.path), "last"], check=True, cwd=Path(__file__).parents[3])
    containers = Containers(home)
    await containers.open()
    images = Images(home, containers)
    await images.open()
    try:
        config = images.config("im-1")
        assert config is not None
        assert not list(home.layers.glob(".new*"))
        layers = [layer for layer in images._layers.all() if not images.layer_path(layer.id).is_symlink()]
        assert len(layers) >= 6
        assert all(images._layers.is_sound(layer, content=True) for layer in layers)
        numbers = "".join(f"{number}\n" for number in range(1, 3001))
        for number, path in enumerate(images.layer_paths(config)[-6:-1]):
            assert (path / f"d/{number}/numbers").read_text() == numbers
    finally:
        await images.close()
        await containers.close()


# -- what leads in circles


async def test_links_that_lead_in_circles(
    project: Project, registry: RegistryServer, tmp_path: Path, lent: Builder
) -> None:
    (project.root / "tree").mkdir()
    (project.root / "tree/a").symlink_to("b")
    (project.root / "tree/b").symlink_to("a")
    (project.root / "tree/up").symlink_to(".")
    await project.build("FROM BASE\nCOPY tree /tree/\nRUN readlink /tree/a /tree/b /tree/up\n")
    assert project.builder.printed.endswith("b\na\n.\n")
    with pytest.raises(BuildFailed, match=r"line 3 .*too many symbolic links"):
        await project.build("FROM BASE\nCOPY tree /tree/\nCOPY Dockerfile /tree/a/x\n")
    layout = Layout(tmp_path / "layout")
    circle = archive(link("a", "b"), link("b", "a"), file("a/x", "x"))
    layout.image("circle", [layouts.gzipped(circle)], SETTINGS)
    registry.push(layout.path, "circle", "circle:1")
    with pytest.raises(BuildFailed, match="symbolic links lead in circles"):
        await lent.build(base=from_registry(f"{registry.host}/circle:1"))


async def test_what_a_killed_base_build_has_written_for_itself_goes_with_its_stage(tmp_path: Path) -> None:
    """mmdebstrap keeps keys in a directory for temporary files, and removes it only when it ends by itself."""
    lines: list[str] = []
    script = "mktemp -d -t keys.XXXX; exit 9"
    code, _last = await debian._run_script(script, tmp_path, lambda _kind, line: lines.append(line))
    assert code == 9
    [left] = [Path(line.strip()) for line in lines]
    assert left.is_dir()
    assert left.is_relative_to(tmp_path)
