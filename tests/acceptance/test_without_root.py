"""Volumes of a platform that is not root on its machine: overlays of a user namespace."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = """
import os, pathlib, shutil, signal, time
import modal

app = modal.App("without-root")
vol = modal.Volume.from_name("without-root", create_if_missing=True)
D = pathlib.Path("/data")

def tree():
    return sorted(str(path.relative_to(D)) for path in D.rglob("*"))

@app.function(volumes={"/data": vol}, max_containers=1, max_inputs=1)
def first():
    (D / "dir/deep").mkdir(parents=True)
    for name in ("dir/one", "dir/deep/two", "gone", "mode"):
        (D / name).write_text(name)
    os.symlink("dir/one", D / "link")
    vol.commit()

@app.function(volumes={"/data": vol}, max_containers=1, max_inputs=1)
def second():
    assert tree() == ["dir", "dir/deep", "dir/deep/two", "dir/one", "gone", "link", "mode"], tree()
    assert (D / "link").read_text() == "dir/one"
    (D / "gone").unlink()
    (D / "dir/one").write_text("changed")
    os.chmod(D / "mode", 0o640)
    shutil.rmtree(D / "dir/deep")
    (D / "dir/deep").mkdir()  # opaque: nothing of the older one shows through
    (D / "dir/deep/three").write_text("three")
    shutil.move(D / "dir", D / "moved")
    vol.commit()

@app.function(volumes={"/data": vol}, max_containers=1)
def third(reload):
    if reload:
        vol.reload()
    return tree()

@app.function(volumes={"/data": vol}, max_containers=1)
def busy():
    with open(D / "mode"):
        try:
            vol.reload()
        except RuntimeError as error:
            return str(error)

@app.function(volumes={"/data": vol}, max_containers=1, retries=0)
def killed():
    (D / "last words").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)

@app.local_entrypoint()
def main():
    first.remote()
    before = third.remote(False)
    second.remote()
    assert third.remote(False) == before
    assert third.remote(True) == ["link", "mode", "moved", "moved/deep", "moved/deep/three", "moved/one"]
    assert b"".join(vol.read_file("moved/one")) == b"changed"
    assert "volume busy" in busy.remote()
    try:
        killed.remote()
    except modal.exception.Error:
        pass
    until = time.time() + 200  # whoever called is told first
    while "last words" not in [entry.path for entry in vol.listdir("/")]:
        assert time.time() < until
        time.sleep(0.05)
    print("whole")
"""


def test_volumes_without_root(own_platform: Platform, tmp_path: Path) -> None:
    """In a user namespace of its own: root there, nobody in particular to the kernel."""
    platform, unshare = own_platform, shutil.which("unshare")
    command = [str(unshare), "--user", "--map-root-user", "--mount"]
    if unshare is None or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no user namespaces")
    up = subprocess.run(
        [*command, *platform.command("intermodal", "up")], env=platform.env, capture_output=True, text=True, check=False
    )
    assert up.returncode == 0, up.stdout + up.stderr
    assert "without root" in (platform.home / "worker.log").read_text()
    program = tmp_path / "without_root.py"
    program.write_text(PROGRAM)
    ran = platform.modal("run", program)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["whole"]
