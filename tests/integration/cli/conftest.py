"""The command line as a process of its own, against a server that runs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.cli.fake_server import FakeServer

Modal = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    fake = FakeServer(tmp_path)
    yield fake
    fake.close()


@pytest.fixture
def environ(server: FakeServer, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "INTERMODAL_"))}
    return {
        **kept,
        "MODAL_SERVER_URL": server.address,
        "MODAL_CONFIG_PATH": str(tmp_path / "modal.toml"),
        "COLUMNS": "200",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture
def start(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `modal ARGS` and return at once."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*args: str, **options: object) -> subprocess.Popen[bytes]:
        settings: dict[str, object] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
            "cwd": tmp_path,
            "env": environ,
        }
        process = subprocess.Popen([sys.executable, "-m", "modal", *args], **{**settings, **options})  # type: ignore[call-overload]
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def modal(environ: dict[str, str], tmp_path: Path) -> Modal:
    """Run `modal ARGS` to its end."""

    def run(*args: str, input: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "modal", *args],
            input=input,
            capture_output=True,
            text=True,
            timeout=200,
            cwd=tmp_path,
            env={**environ, **env},
            check=False,
        )

    return run
