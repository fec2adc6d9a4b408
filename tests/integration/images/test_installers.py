"""Steps that install Python packages in other ways than pip_install, in real containers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from intermodal.worker.images import BuildFailed
from intermodal.worker.images import packages as packages_module

from .conftest import Builder, run

pytestmark = pytest.mark.containers

PROJECTS = Path(__file__).parent / "projects"


def text(name: str) -> str:
    return (PROJECTS / name).read_text()


VERSIONS = run(
    "python - <<'EOF'\n"
    "from importlib.metadata import version, PackageNotFoundError\n"
    "for name in ('six', 'idna', 'tabulate'):\n"
    "    try: print(name, version(name))\n"
    "    except PackageNotFoundError: print(name, 'none')\n"
    "EOF"
)


async def test_uv_pip_install_takes_packages_and_requirements(builder: Builder) -> None:
    step = {"kind": "uv_pip_install", "packages": ["six==1.16.0"], "requirements": ["idna>=3\n", "tabulate\n"]}
    printed = await builder.output(step, VERSIONS)
    assert "six 1.16.0" in printed and "idna 3." in printed and "tabulate 0." in printed


async def test_uv_pip_install_fails_where_uv_does(builder: Builder) -> None:
    step = {"kind": "uv_pip_install", "packages": ["six"], "extra_options": "--progress-bar off"}
    with pytest.raises(BuildFailed, match="unexpected argument '--progress-bar'"):
        await builder.build(step)


async def test_a_uv_version_of_choice_is_fetched_once(builder: Builder) -> None:
    version = "0.5.0"
    for package in ("six", "idna"):
        await builder.build({"kind": "uv_pip_install", "packages": [package], "uv_version": version})
    assert f"Collecting uv=={version}" in builder.printed
    assert builder.printed.count("Collecting uv") == 1
    assert (builder.home.cache / "uv-versions" / version / "bin/uv").exists()


async def test_a_uv_project_becomes_the_images_python(builder: Builder) -> None:
    step = {
        "kind": "uv_sync", "pyproject": text("uv/pyproject.toml"), "lock": text("uv/uv.lock"), "frozen": True,
        "extras": ["more"],
    }  # fmt: skip
    which = run("command -v python")
    config = await builder.build(step, {"kind": "pip_install", "packages": ["iniconfig"]}, VERSIONS, which)
    assert config.python == "/.uv/.venv/bin/python"
    assert config.env["PATH"].startswith("/.uv/.venv/bin:/usr/local/sbin:")
    assert "six 1.16.0\nidna 3.20\ntabulate 0.10.0\n" in builder.printed  # uv's default group is "dev"
    assert builder.printed.endswith("/.uv/.venv/bin/python\n")
    layer = builder.images.layer_paths(config)[1]
    assert list(layer.glob(".uv/.venv/lib/python3.11/site-packages/__pycache__/six*.pyc"))


async def test_a_group_that_the_uv_project_lacks(builder: Builder) -> None:
    step = {"kind": "uv_sync", "pyproject": text("uv/pyproject.toml"), "lock": text("uv/uv.lock"), "groups": ["nope"]}
    with pytest.raises(BuildFailed, match="nope"):
        await builder.build(step)


async def test_poetry_installs_what_the_lock_file_has_into_the_images_python(builder: Builder) -> None:
    step = {"kind": "poetry", "pyproject": text("poetry/pyproject.toml"), "lock": text("poetry/poetry.lock")}
    config = await builder.build(step, VERSIONS)
    assert "six 1.16.0\nidna none\n" in builder.printed
    assert {path.name for path in builder.images.layer_paths(config)[1].iterdir()} <= {"usr", "tmp"}
    assert "six none\nidna 3.20" in await builder.output({**step, "only": ["opt"]}, VERSIONS)
    step.pop("lock")
    assert "six 1.16.0\nidna 3.20" in await builder.output({**step, "with": ["opt"]}, VERSIONS)
    with pytest.raises(BuildFailed, match="Group not found: nope"):
        await builder.build({**step, "with": ["nope"]})


async def test_private_repositories_are_read_with_a_token_that_stays_nowhere(builder: Builder) -> None:
    """git in the image takes github.com/ecorp from a directory: what reaches it, and what is left, is what counts."""
    make = [
        "apt-get update && apt-get install -y git",
        "mkdir -p /srv/ecorp/private && cd /srv/ecorp/private && git init -q . && "
        'printf \'[project]\\nname = "ecorp-private"\\nversion = "1.2.3"\\n\' > pyproject.toml && git add . && '
        "git -c user.name=a -c user.email=a@b commit -qm one && git tag v1",
        "git config --system url.file:///srv/ecorp/.insteadOf https://github.com/ecorp/ && "
        "git config --system safe.directory '*'",
    ]
    builder.secrets["st-1"] = {"GITHUB_TOKEN": "ghp_verysecrettoken"}
    step = {
        "kind": "pip_private_repos", "repositories": ["github.com/ecorp/private@v1"], "git_user": "me",
        "secrets": ["st-1"],
    }  # fmt: skip
    config = await builder.build(run(*make), step, run("python -m pip show ecorp-private"))
    assert "Version: 1.2.3" in builder.printed
    assert "ghp_verysecrettoken" not in "".join(entry.text for entry in builder.entries)
    for layer in builder.images.layer_paths(config)[1:]:
        found = subprocess.run(["grep", "-rl", "ghp_verysecrettoken", layer], capture_output=True, text=True)
        assert found.stdout == ""
    builder.secrets["st-1"] = {"OTHER": "x"}
    with pytest.raises(BuildFailed, match="no secret of this step has GITHUB_TOKEN"):
        await builder.build(run(*make), step)


async def test_what_an_image_tells_pip_is_heeded(builder: Builder) -> None:
    """uv reads neither pip's variables nor its files."""
    await builder.build(
        {"kind": "env", "vars": {"PIP_ONLY_BINARY": ":all:"}}, {"kind": "pip_install", "packages": ["six"]}
    )
    assert "Successfully installed six" in builder.printed
    builder.entries.clear()
    conf = run("printf '[global]\\nno-deps = true\\n' > /etc/pip.conf")
    await builder.build(conf, {"kind": "pip_install", "packages": ["idna"]})
    assert "Successfully installed idna" in builder.printed


async def test_pip_tries_what_uv_cannot(builder: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An image may not be able to run our uv at all: one with another C library."""
    broken = tmp_path / "uv"
    broken.write_text("#!/bin/sh\necho cannot run here\nmkdir /half\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setattr(packages_module, "uv_binary", lambda: broken)
    config = await builder.build({"kind": "pip_install", "packages": ["six"]})
    assert "uv could not do it" in builder.printed
    assert "Successfully installed six" in builder.printed
    assert not (builder.images.layer_paths(config)[1] / "half").exists()
