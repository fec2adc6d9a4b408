"""Images from a real registry: pulled, checked, unpacked, shared, and started."""

from __future__ import annotations

import base64
import datetime
import http.server
import json
import os
import socket
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from intermodal.worker.images import BuildFailed
from intermodal.worker.images.interpreters import interpreters
from intermodal.worker.images.registry_ecr import signed
from intermodal.worker.images.trees import remove_tree
from modal._protocol.messages.image import ImageConfig
from tests.oci import layouts
from tests.oci.bases import base_layer
from tests.oci.layouts import Layout, archive, directory, file, link
from tests.oci.registry_server import GOOGLE_KEY, PASSWORD, USER, RegistryServer, why_no_registry

from .conftest import Builder, run

pytestmark = [pytest.mark.containers, pytest.mark.skipif(bool(why_no_registry()), reason=why_no_registry())]


def from_registry(tag: str, **more: Any) -> dict[str, Any]:
    return {"kind": "registry", "tag": tag, **more}


def tree(builder: Builder, config: ImageConfig) -> dict[str, Path]:
    """Paths in the topmost layer."""
    top = builder.images.layer_paths(config)[-1]
    return {str(path.relative_to(top)): path for path in top.rglob("*")}


async def test_an_image_keeps_its_settings_and_is_pulled_once(
    builder: Builder, debian: str, registry: RegistryServer, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    extra = archive(directory("srv"), directory("srv/app"), file("srv/app/hello", "hello\n"))
    settings = {
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "GREETING=good morning", "ODD=a=b"],
        "WorkingDir": "/srv/app",
        "Entrypoint": ["/entry"],
        "Cmd": ["serve"],
        "Shell": ["/bin/bash", "-c"],
    }
    base, top = base_layer(), layouts.zstd(extra)
    layout.image("v1", [base, top], settings)
    registry.push(layout.path, "v1", "team/app:v1")
    first = await builder.build(base=from_registry(debian))
    assert first.python == "/usr/local/bin/python"
    assert first.python_version.startswith("3.11.")
    said = builder.printed
    assert "Progress: 100% complete... (" in said
    assert "Copying image...\nCopied image in " in said

    before = len(registry.asked())
    second = await builder.build(
        run("echo $GREETING; cat hello; echo ${BASH_VERSION:+bash}"), base=from_registry(f"{registry.host}/team/app:v1")
    )
    assert builder.printed.endswith("good morning\nhello\nbash\n")
    assert builder.started[-2:] == [
        f"=> Step 0: FROM {registry.host}/team/app:v1",
        "=> Step 1: RUN echo $GREETING; cat hello; echo ${BASH_VERSION:+bash}",
    ]
    assert (second.env["ODD"], second.workdir, second.entrypoint, second.cmd) == (
        "a=b",
        "/srv/app",
        ["/entry"],
        ["serve"],
    )
    assert second.layers[0] == first.layers[0]
    fetched = registry.asked()[before:]
    assert layouts.digest_of(top.blob) in fetched
    assert layouts.digest_of(base.blob) not in fetched

    builder.entries.clear()
    again = await builder.build(run("true"), base=from_registry(f"{registry.host}/team/app:v1"))
    assert again.layers[:2] == second.layers[:2]
    assert "Copying" not in builder.printed
    assert not list((builder.home.cache / "registry/pulls").glob("*/blobs"))


async def test_every_form_of_a_layer(lent: Builder, debian: str, registry: RegistryServer, tmp_path: Path) -> None:
    builder = lent
    layout = Layout(tmp_path / "layout")
    forms = [layouts.gzipped, layouts.zstd, layouts.plain, layouts.estargz]
    layers = [make(archive(file(f"form-{number}", make.__name__))) for number, make in enumerate(forms)]
    layout.image("forms", [base_layer(), *layers], {})
    registry.push(layout.path, "forms", "forms:1", "--preserve-digests")
    assert await builder_output(builder, f"{registry.host}/forms:1", "cat /form-0 /form-1 /form-2 /form-3") == (
        "gzippedzstdplainestargz\n"
    )


async def builder_output(builder: Builder, tag: str, command: str) -> str:
    builder.entries.clear()
    await builder.build(run(f"{command}; echo"), base=from_registry(tag))
    return builder.printed.rpartition("Copied image in ")[2].partition("\n")[2]


async def test_whiteouts_links_and_what_layers_take_for_granted(
    lent: Builder, debian: str, registry: RegistryServer, tmp_path: Path
) -> None:
    builder = lent
    first = archive(
        *(directory("data"), file("data/gone", "x"), file("data/kept", "kept")),
        *(directory("full"), file("full/old", "x"), directory("secret", 0o700, uid=7, gid=8), directory("tmp", 0o1777)),
        *(directory("again"), file("again/before", "x")),
    )
    second = archive(
        *(file("data/.wh.gone"), file("data/kept2", "two"), file("full/.wh..wh..opq"), file("full/new", "new")),
        *(file(".wh.again"), directory("again"), file("again/after", "after")),
        *(
            file("secret/inner", "inner"),
            file("tmp/scratch"),
            file("lib/by-a-link", "linked"),
            file("bin/tool", "t", 0o755),
        ),
        *(link("latest", "data/kept"), layouts.entry("hard", tarfile.LNKTYPE, linkname="data/kept2")),
    )
    layout = Layout(tmp_path / "layout")
    layout.image("v", [base_layer(), layouts.gzipped(first), layouts.gzipped(second)], {})
    registry.push(layout.path, "v", "whiteouts:1")
    told = await builder_output(
        builder,
        f"{registry.host}/whiteouts:1",
        "ls /data /full /again; cat /latest /hard; stat -c '%a %u %g' /secret /tmp /data; cat /lib/by-a-link; "
        "readlink /lib /bin; test -x /usr/bin/tool && ls -i /hard /data/kept2 | cut -d' ' -f1 | uniq | wc -l",
    )
    assert (
        told.split()
        == (
            "/again: after /data: kept kept2 /full: new kepttwo700 7 8 1777 0 0 755 0 0 linkedusr/lib usr/bin 1"
        ).split()
    )


async def test_the_image_for_this_machine_is_taken(
    lent: Builder, debian: str, registry: RegistryServer, tmp_path: Path
) -> None:
    builder = lent
    layout = Layout(tmp_path / "layout")
    base = base_layer()
    ours = layout.image("", [base, layouts.gzipped(archive(file("cpu", "amd64")))])
    other = layout.image("", [layouts.gzipped(archive(file("cpu", "arm64")))], architecture="arm64")
    layout.index("both", [other, ours])
    layout.index("foreign", [other])
    registry.push(layout.path, "both", "multi:both")
    registry.push(layout.path, "foreign", "multi:foreign")
    assert await builder_output(builder, f"{registry.host}/multi:both", "cat /cpu") == "amd64\n"
    with pytest.raises(BuildFailed, match=r"multi:foreign is not built for linux/amd64; it has linux/arm64"):
        await builder.build(base=from_registry(f"{registry.host}/multi:foreign"))


async def test_a_private_registry_and_its_credentials(lent: Builder, private: RegistryServer, tmp_path: Path) -> None:
    builder = lent
    layout = Layout(tmp_path / "layout")
    layout.image("v", [base_layer()], {})
    private.push(layout.path, "v", "hidden/image:1")
    tag = f"{private.host}/hidden/image:1"
    with pytest.raises(BuildFailed, match=r"private, or .*REGISTRY_USERNAME and REGISTRY_PASSWORD"):
        await builder.build(base=from_registry(tag))
    builder.secrets["st-wrong"] = {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": "wrong password"}
    with pytest.raises(BuildFailed, match=r"does not let the given credentials read"):
        await builder.build(base=from_registry(tag, secrets=["st-wrong"]))
    builder.secrets["st-odd"] = {"TOKEN": "x"}
    with pytest.raises(BuildFailed, match=r"lacks REGISTRY_USERNAME and REGISTRY_PASSWORD .*it has TOKEN"):
        await builder.build(base=from_registry(tag, secrets=["st-odd"]))
    builder.secrets["st-right"] = {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": PASSWORD}
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                    seen.add((path.parent / "environ").read_bytes().decode(errors="replace"))
                except OSError:
                    pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        config = await builder.build(run("env"), base=from_registry(tag, secrets=["st-right"]))
    finally:
        over.set()
        watcher.join()
    assert config.python
    assert any("skopeo" in line for line in seen)
    assert not any(PASSWORD in line for line in seen)
    assert PASSWORD not in builder.printed
    found = subprocess.run(["grep", "-rl", PASSWORD, str(builder.home.path)], capture_output=True, text=True)
    assert found.stdout == ""
    # What was pulled with a secret is not shown to somebody without.
    with pytest.raises(BuildFailed, match=r"private, or there is no such image"):
        await builder.build(base=from_registry(tag))


class EcrStandIn(http.server.BaseHTTPRequestHandler):
    """Answers GetAuthorizationToken as Amazon does, for one pair of keys; checks the signature."""

    secret: ClassVar[dict[str, str]] = {
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "very-secret-key",
        "AWS_REGION": "eu-west-1",
    }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        given = {name: self.headers[name] for name in ("Content-Type", "X-Amz-Target")}
        now = datetime.datetime.strptime(self.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
        wanted = signed(f"http://{self.headers['Host']}", given, body, self.secret, "eu-west-1", now)
        good = self.headers["Authorization"] == wanted["Authorization"]
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        answer: dict[str, Any] = {"authorizationData": [{"authorizationToken": token}]}
        if not good or not given["X-Amz-Target"].endswith(".GetAuthorizationToken"):
            answer = {"__type": "x#UnrecognizedClientException", "message": "The security token is invalid."}
        data = json.dumps(answer).encode()
        self.send_response(200 if good else 400)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        pass


async def test_amazons_and_googles_logins(
    lent: Builder, private: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = lent
    layout = Layout(tmp_path / "layout")
    layout.image("v", [base_layer()], {})
    private.push(layout.path, "v", "cloud/image:1")
    tag = f"{private.host}/cloud/image:1"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), EcrStandIn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", f"http://127.0.0.1:{server.server_port}")
        builder.secrets["st-aws"] = dict(EcrStandIn.secret)
        config = await builder.build(base=from_registry(tag, access="aws", secrets=["st-aws"]))
        assert config.python
        builder.secrets["st-bad"] = {**EcrStandIn.secret, "AWS_SECRET_ACCESS_KEY": "wrong"}
        with pytest.raises(BuildFailed, match=r"Amazon refuses a token .*UnrecognizedClientException"):
            await builder.build(base=from_registry(tag, access="aws", secrets=["st-bad"]))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    builder.secrets["st-google"] = {"SERVICE_ACCOUNT_JSON": GOOGLE_KEY}
    assert (await builder.build(base=from_registry(tag, access="gcp", secrets=["st-google"]))).python
    builder.secrets["st-other"] = {"SERVICE_ACCOUNT_JSON": GOOGLE_KEY.replace('"k"', '"other"')}
    with pytest.raises(BuildFailed, match=r"does not let the given credentials read"):
        await builder.build(base=from_registry(tag, access="gcp", secrets=["st-other"]))


async def test_a_mirror_stands_in_for_a_registry(
    lent: Builder, debian: str, registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERMODAL_REGISTRY_MIRRORS", f"docker.io={registry.host}")
    config = await lent.build(base=from_registry("debian-python:3.11"))
    assert config.python == "/usr/local/bin/python"


async def test_clear_words_for_what_is_not_there(
    lent: Builder, debian: str, registry: RegistryServer, tmp_path: Path
) -> None:
    builder = lent
    with pytest.raises(BuildFailed, match=r"there is no image .*no-such-tag: check its name and tag"):
        await builder.build(base=from_registry(debian.replace("3.11", "no-such-tag")))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(BuildFailed, match=rf"localhost:{port} cannot be reached"):
            await builder.build(base=from_registry(f"localhost:{port}/some/image"))
    with pytest.raises(BuildFailed, match=r"names no image"):
        await builder.build(base=from_registry("Not A Name"))
    layout = Layout(tmp_path / "layout")
    layout.image("bare", [layouts.gzipped(archive(file("hello", "x")))], {})
    registry.push(layout.path, "bare", "bare:1")
    with pytest.raises(BuildFailed, match=r"no `python` on its PATH.*add_python"):
        await builder.build(base=from_registry(f"{registry.host}/bare:1"))
    evil = archive(link("way", "/"), file("way/../../../etc/cron.d/evil", "x"))
    layout.image("evil", [layouts.gzipped(evil)], {})
    registry.push(layout.path, "evil", "evil:1")
    with pytest.raises(BuildFailed, match=r"cannot be unpacked: 'way/../../../etc/cron.d/evil' leads out of the image"):
        await builder.build(base=from_registry(f"{registry.host}/evil:1"))
    assert builder.names("layers") == [] or all(not name.startswith(".new") for name in builder.names("layers"))


async def test_an_interrupted_pull_goes_on_and_damage_is_repaired(
    lent: Builder, registry: RegistryServer, tmp_path: Path
) -> None:
    builder = lent
    layout = Layout(tmp_path / "layout")
    extra = layouts.gzipped(archive(file("extra", "fine")))
    large = layouts.plain(archive(file("large", os.urandom(1 << 20))))
    layout.image("v", [base_layer(), extra, large], {})
    registry.push(layout.path, "v", "broken:1", "--preserve-digests")
    tag = f"{registry.host}/broken:1"
    kept = registry.blob(layouts.digest_of(large.blob))
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])  # the registry breaks off in the middle
    try:
        with pytest.raises(BuildFailed, match=r"broken:1|cannot be reached"):
            await builder.build(base=from_registry(tag))
    finally:
        kept.write_bytes(whole)
    before = len(registry.asked())
    assert list((builder.home.cache / "registry/pulls").glob("*/blobs/sha256"))
    config = await builder.build(run("cat /extra"), base=from_registry(tag))
    assert layouts.digest_of(extra.blob) not in registry.asked()[before:]  # it had arrived the first time

    # A layer is gone, and what an interrupted pull left of it is damaged: it is noticed and fetched again.
    remove_tree(builder.home.layers / config.layers[1])
    pull = builder.home.cache / "registry/pulls" / layout.manifests["v"].partition(":")[2] / "blobs/sha256"
    pull.mkdir(parents=True)
    data = bytearray(extra.blob)
    data[30] ^= 0xFF
    (pull / layouts.digest_of(extra.blob).partition(":")[2]).write_bytes(data)
    builder.entries.clear()
    await builder.build(run("cat /extra; echo"), base=from_registry(tag))
    assert "arrived damaged" in builder.printed
    assert builder.printed.endswith("fine\n")


@pytest.mark.skipif(not interpreters(), reason="this machine has no Python to put into an image")
async def test_python_is_put_into_an_image_without(
    lent: Builder, debian: str, registry: RegistryServer, tmp_path: Path
) -> None:
    builder = lent
    chosen = next((one for one in interpreters() if one.minor == "3.12"), interpreters()[0])
    layout = Layout(tmp_path / "layout")
    hides = archive(
        *(file(f"usr/bin/.wh.{name}") for name in ("python3", "python3.11")),
        *(file(f"usr/local/bin/.wh.{name}") for name in ("python", "python3", "pip")),
        *(file(f"usr/lib/x86_64-linux-gnu/.wh.{name}") for name in ("libsqlite3.so.0", "libffi.so.8", "libssl.so.3")),
        file("usr/lib/.wh.python3.11"),
    )
    layout.image("v", [base_layer(), layouts.gzipped(hides)], {"Env": ["PATH=/usr/bin:/bin"]})
    registry.push(layout.path, "v", "without-python:1")
    config = await builder.build(
        run("python -c 'import ssl, sqlite3, ctypes, sys; print(sys.version_info[:2])'; pip --version | cut -c-3"),
        {"kind": "pip_install", "packages": ["six"]},
        run("python -c 'import six; print(six.__name__)'"),
        base=from_registry(
            f"{registry.host}/without-python:1",
            add_python=chosen.minor,
            setup=["ENV SET_UP=1", 'SHELL ["/bin/bash", "-c"]', "RUN echo set up with ${BASH_VERSION:+bash} $SET_UP"],
        ),
    )
    assert config.python_version == chosen.version
    assert "set up with bash 1\n" in builder.printed
    major, minor = chosen.minor.split(".")
    assert f"({major}, {minor})" in builder.printed
    assert builder.printed.endswith("six\n")
    with pytest.raises(BuildFailed, match=r"there is no Python 3\.99 for the image"):
        await builder.build(base=from_registry(f"{registry.host}/without-python:1", add_python="3.99"))
