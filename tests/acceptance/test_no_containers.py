"""A machine that can run no containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = pytest.mark.acceptance

PROGRAM = """
import modal

app = modal.App("nowhere", image=modal.Image.debian_slim().run_commands("touch {mark}"))

@app.function()
def f():
    open("{mark}", "w")

@app.local_entrypoint()
def main():
    f.remote()
"""


def test_nothing_is_built_or_run_on_the_machine_itself(own_platform: Platform, tmp_path: Path) -> None:
    own_platform.env["INTERMODAL_RUNTIME"] = "host"
    mark = tmp_path / "mark"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(mark=mark))
    ran = own_platform.modal("run", program)
    assert ran.code == 1
    assert "this machine can run no containers" in ran.text
    assert "`intermodal doctor` says what is missing" in " ".join(ran.text.split())
    assert not mark.exists()
    assert "NO CONTAINERS" in own_platform.intermodal("status").text
