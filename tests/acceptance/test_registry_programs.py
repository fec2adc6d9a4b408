"""Programs on images from registries: a real registry on this machine stands in for the ones that they name."""

from __future__ import annotations

import os
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal.worker.images import layer_mounts
from tests.acceptance.conftest import Platform, Ran, new_platform
from tests.oci.bases import SETTINGS, base_layer
from tests.oci.layouts import Layout, archive, directory, file, gzipped
from tests.oci.registry_server import PASSWORD, USER, RegistryServer, why_no_registry

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(bool(why_no_registry()), reason=why_no_registry()),
]

GOOD = '#!/bin/sh\nexport FROM_ENTRYPOINT="set by the entrypoint"\nexec "$@"\n'
ENDS = '#!/bin/sh\necho "entrypoint says $#"\nexit 3\n'
STAYS = "#!/bin/sh\nwhile true; do sleep 1; done\n"
ENTRYPOINT_SECONDS = 8


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    place = tmp_path_factory.mktemp("registry")
    server = RegistryServer(place / "server", private=True)
    server.start()
    layout = Layout(place / "layout")
    scripts = [
        directory("entry"),
        *(file(f"entry/{name}", text, 0o755) for name, text in (("good", GOOD), ("ends", ENDS))),
    ]
    scripts += [file("entry/stays", STAYS, 0o755), directory("work"), file("work/data.txt", "data of the image")]
    layers = [base_layer(), gzipped(archive(*scripts))]
    for name in ("good", "ends", "stays"):
        layout.image(name, layers, {**SETTINGS, "Entrypoint": [f"/entry/{name}"], "WorkingDir": "/work"})
        server.push(layout.path, name, f"library/app:{name}")
    layout.image("plain", layers, SETTINGS)
    server.push(layout.path, "plain", "library/python:3.11-slim-bookworm")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def platform(registry: RegistryServer) -> Iterator[Platform]:
    """One whose Docker Hub is the registry of the test."""
    with new_platform() as it:
        it.env["INTERMODAL_REGISTRY_MIRRORS"] = f"docker.io={registry.host}"
        it.env["INTERMODAL_ENTRYPOINT_SECONDS"] = str(ENTRYPOINT_SECONDS)
        up = it.intermodal("up")
        assert up.code == 0, up.text
        secret = it.modal(
            *("secret", "create", "my-registry"), f"REGISTRY_USERNAME={USER}", f"REGISTRY_PASSWORD={PASSWORD}"
        )
        assert secret.code == 0, secret.text
        yield it


def run(platform: Platform, directory: Path, text: str) -> Ran:
    program = directory / "program.py"
    program.write_text(textwrap.dedent(text))
    return platform.modal("run", program, cwd=directory)


def app(image: str, body: str = "return 1") -> str:
    return f"""
import os
import modal

app = modal.App("registry-test")
secret = modal.Secret.from_name("my-registry")
image = {image}

@app.function(image=image)
def f():
    {body}

@app.local_entrypoint()
def main():
    print("answer:", f.remote())
"""


def test_a_private_image_runs_through_its_entrypoint(
    platform: Platform, registry: RegistryServer, tmp_path: Path
) -> None:
    image = f'modal.Image.from_registry("{registry.host}/library/app:good", secret=secret).pip_install("six")'
    body = 'import six; return os.environ["FROM_ENTRYPOINT"], os.getcwd(), open("data.txt").read(), six.__name__'
    ran = run(platform, tmp_path, app(image, body))
    assert ran.code == 0, ran.text
    assert "answer: ('set by the entrypoint', '/work', 'data of the image', 'six')" in ran.out
    assert f"=> Step 0: FROM {registry.host}/library/app:good" in ran.text
    assert "Copied image in " in ran.text
    assert PASSWORD not in ran.text


def test_an_entrypoint_that_does_not_exec_is_named(
    platform: Platform, registry: RegistryServer, tmp_path: Path
) -> None:
    for name, why in (
        ("ends", "ENTRYPOINT /entry/ends ended with exit code 3 before it ran the command that it was given"),
        (
            "stays",
            f"ENTRYPOINT /entry/stays has not run the command that it was given within {ENTRYPOINT_SECONDS} seconds",
        ),
    ):
        image = f'modal.Image.from_registry("{registry.host}/library/app:{name}", secret=secret)'
        ran = run(platform, tmp_path, app(image))
        assert ran.code != 0
        text = " ".join(ran.text.replace("│", " ").split())
        assert why in text, ran.text
        assert 'exec "$@"' in text


def test_mistakes_are_explained_at_the_caller(platform: Platform, registry: RegistryServer, tmp_path: Path) -> None:
    for image, why in (
        (f'modal.Image.from_registry("{registry.host}/library/app:good")', "REGISTRY_USERNAME and REGISTRY_PASSWORD"),
        (f'modal.Image.from_registry("{registry.host}/library/app:nothing", secret=secret)', "there is no image"),
    ):
        ran = run(platform, tmp_path, app(image))
        assert ran.code != 0
        assert why in " ".join(ran.text.replace("│", " ").split()), ran.text
        assert "Traceback" not in ran.err or "RemoteError" in ran.err


def test_a_dockerfile_is_built_and_extended(platform: Platform, registry: RegistryServer, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"""FROM {registry.host}/library/app:good AS base
WORKDIR /srv
COPY data/ ./
FROM base
ENV NAME=${{OTHER:-from-the-dockerfile}}
RUN cat here.txt
ENTRYPOINT ["/entry/good"]
"""
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data/here.txt").write_text("copied from here")
    (tmp_path / "data/left.out").write_text("x")
    (tmp_path / ".dockerignore").write_text("**/*.out\n")
    image = 'modal.Image.from_dockerfile("Dockerfile", secrets=[secret]).pip_install("six")'
    image += '.dockerfile_commands("ENV MORE=1")'
    body = 'import six; return os.getcwd(), os.listdir(), *map(os.environ.get, ("NAME", "MORE", "FROM_ENTRYPOINT"))'
    ran = run(platform, tmp_path, app(image, body))
    assert ran.code == 0, ran.text
    assert "answer: ('/srv', ['here.txt'], 'from-the-dockerfile', '1', 'set by the entrypoint')" in ran.out
    assert "copied from here" in ran.text

    (tmp_path / "Dockerfile").write_text("FROM x\nCOPPY a b\n")
    ran = run(platform, tmp_path, app(image, body))
    assert ran.code != 0
    assert "line 2: unknown instruction 'COPPY'; did you mean COPY?" in " ".join(ran.text.replace("│", " ").split())


def test_mounted_layers_outlive_a_killed_worker_and_go_with_their_image(
    platform: Platform, registry: RegistryServer, tmp_path: Path
) -> None:
    layers = Path(platform.env["INTERMODAL_HOME"]) / "layers"
    why = layer_mounts.problem(tmp_path)
    text = app(f'modal.Image.from_registry("{registry.host}/library/app:good", secret=secret)', "return os.getcwd()")
    assert "answer: /work" in run(platform, tmp_path, text).out
    assert bool(list(layers.glob("*.erofs"))) == (not why)
    os.kill(platform.status()["local_worker"]["pid"], signal.SIGKILL)
    ran = run(platform, tmp_path, text)
    assert "answer: /work" in ran.out, ran.text
    assert "Copied image in " not in ran.text
    assert str(layers) not in Path("/proc/mounts").read_text()
    assert platform.intermodal("images", "verify").code == 0
    assert str(layers) not in Path("/proc/mounts").read_text()
    pruned = platform.intermodal("images", "prune", "--yes")
    assert pruned.code == 0, pruned.text
    assert not [*layers.glob("*.erofs"), *layers.glob("*.tar")]
    assert "answer: /work" in run(platform, tmp_path, text).out
    assert bool(list(layers.glob("*.erofs"))) == (not why)
