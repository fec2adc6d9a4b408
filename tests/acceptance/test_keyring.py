"""The key of secrets in a real keyring: GNOME's Secret Service, on a bus of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import PATIENCE, Platform, until

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = """
import os, modal
app = modal.App("keyring")
@app.function(secrets=[modal.Secret.from_name("kept", required_keys=["A"])])
def show():
    return os.environ["A"]
@app.local_entrypoint()
def main():
    print(show.remote())
"""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a session with an unlocked keyring."""
    if shutil.which("dbus-daemon") is None or shutil.which("gnome-keyring-daemon") is None:
        pytest.skip("scripts/setup --dev installs gnome-keyring and dbus")
    folder = tmp_path / "session"
    for name in ("run", "data"):
        (folder / name).mkdir(parents=True, mode=0o700)
    env = {"XDG_RUNTIME_DIR": str(folder / "run"), "XDG_DATA_HOME": str(folder / "data")}
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address=1", f"--address=unix:dir={folder / 'run'}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **env},
    )  # fmt: skip
    assert bus.stdout is not None
    env["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().strip()
    ring = subprocess.Popen(
        ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **env},
    )  # fmt: skip
    assert ring.stdin is not None
    ring.stdin.write(b"password")
    ring.stdin.close()
    until(lambda: _has_keyring(env), "no keyring on the bus")
    yield env
    for process in (ring, bus):
        process.terminate()
        process.wait(PATIENCE)
    bus.stdout.close()


def _has_keyring(env: dict[str, str]) -> bool:
    """Whether it answers on this bus: before that, whoever asks for it has another one started."""
    command = ["dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus"]
    command += ["org.freedesktop.DBus.NameHasOwner", "string:org.freedesktop.secrets"]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    return "boolean true" in done.stdout


def test_the_key_moves_to_the_keyring_and_back(own_platform: Platform, session: dict[str, str], tmp_path: Path) -> None:
    platform, home = own_platform, own_platform.home
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def start(**settings: str) -> None:
        assert platform.intermodal("down").code == 0
        for name in (*session, "INTERMODAL_SECRETS_KEY", "PYTHON_KEYRING_BACKEND"):
            platform.env.pop(name, None)
        platform.env.update(settings)

    def works() -> bool:
        ran = platform.modal("run", program)
        return ran.lines() == ["hidden-value"]

    assert platform.modal("secret", "create", "kept", "A=hidden-value").code == 0
    key = (home / "secrets.key").read_bytes()

    start(**session, INTERMODAL_SECRETS_KEY="keyring")
    up = platform.intermodal("up")
    assert up.code == 0, up.text
    assert not (home / "secrets.key").exists()
    assert works()
    rotated = platform.intermodal("secrets", "rotate-key")
    assert rotated.code == 0, rotated.text

    start(**session)  # it stays where it is
    assert works()
    for path in home.glob("*"):
        assert not path.is_file() or key not in path.read_bytes(), path

    start(PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring")
    refused = platform.intermodal("up")
    assert refused.code != 0
    assert "no keyring here that programs can use" in refused.text
    assert "Traceback" not in refused.text

    start(**session, INTERMODAL_SECRETS_KEY="file")
    assert works()
    assert (home / "secrets.key").stat().st_mode & 0o777 == 0o600
    assert not (home / "secrets.keyring").exists()
    start()
    assert works()
