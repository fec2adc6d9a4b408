"""Ephemeral objects whose `__enter__` is called without `with`, as people do in notebooks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import modal
from modal import exception
from tests.integration.data.conftest import ServerProcess

ENTERED = """
import gc, os, modal
d = modal.Dict.ephemeral().__enter__()
q = modal.Queue.ephemeral().__enter__()
gc.collect()
d["q"] = q
d["q"].put(d.object_id)
kept = modal.Dict.from_name("entered", create_if_missing=True)
kept["id"] = q.get()
if not os.fork():  # it has inherited them, and ends without ending them
    raise SystemExit
os.wait()
kept["length"] = len(d)
with modal.Dict.ephemeral() as inner:
    pass
"""


def test_what_was_entered_lives_until_the_process_ends(server: ServerProcess) -> None:
    environment = {**os.environ, "MODAL_SERVER_URL": server.home.address}
    ran = subprocess.run([sys.executable, "-c", ENTERED], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    kept = modal.Dict.from_name("entered")
    assert kept["length"] == 1
    left = modal.Dict._from_object_id(kept["id"])
    with pytest.raises(exception.NotFoundError):
        left.get("q")
