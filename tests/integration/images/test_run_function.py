"""Functions as build steps, in real containers."""

from __future__ import annotations

import hashlib
import pickle
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from intermodal.files import Files
from intermodal.worker.images import BuildFailed
from modal._protocol.messages.file import FileEntry

from .conftest import Builder, run

pytestmark = pytest.mark.containers

SOURCE = """
import os
import modal

WORDS = "in a build"

def write(name, times=1):
    print(WORDS, os.getcwd(), modal.is_local(), os.environ.get("TOKEN"))
    open("/root/written", "w").write(name * times)

async def write_later():
    open("/root/later", "w").write("yes")

def fail():
    raise ValueError("no luck")

def leave(code):
    import sys
    sys.exit(code)

def sleep():
    import time
    time.sleep(60)

def write_to_volume():
    print(open("/data/model").read())
    open("/data/new", "w").write("kept")
"""


async def function(builder: Builder, name: str, *args: Any, supplies: Any = None, **kwargs: Any) -> dict[str, Any]:
    content = SOURCE.encode()
    digest = hashlib.sha256(content).hexdigest()
    Files(builder.home).put(digest, content)
    await builder.images.mount("mo-source", [FileEntry("/root/program.py", digest, len(content))])
    return {
        "kind": "run_function", "name": name, "identity": f"{name}{args}{kwargs}",
        "supplies": {
            "source": "file", "module": "program", "qualname": name, "mount_ids": ["mo-source"],
            "call": b64encode(pickle.dumps((args, kwargs))).decode(), **(supplies or {}),
        },
    }  # fmt: skip


async def test_what_a_function_writes_is_the_layer_and_its_source_is_not(builder: Builder) -> None:
    builder.secrets["st-1"] = {"TOKEN": "a-secret-value"}
    step = {**await function(builder, "write", "ab", times=2), "secrets": ["st-1"]}
    later = await function(builder, "write_later")
    config = await builder.build(step, later, run("cat /root/written /root/later; ls -A /root /.intermodal"))
    assert "in a build /root False ***\n" in builder.printed
    assert "ababyes" in builder.printed
    assert "program.py" not in builder.printed and "pycache" not in builder.printed
    layer = builder.images.layer_paths(config)[1]
    assert {str(path.relative_to(layer)) for path in layer.rglob("*")} == {"root", "root/written"}


async def test_only_what_decides_the_result_is_part_of_the_layers_identity(builder: Builder) -> None:
    first = await builder.build(await function(builder, "write", "a"))
    again = await builder.build(await function(builder, "write", "a", supplies={"timeout": 99, "cpu": 1.0}))
    changed = await builder.build(await function(builder, "write", "b"))
    assert again.layers == first.layers != changed.layers


async def test_how_a_function_fails_is_shown_from_its_own_code_on(builder: Builder) -> None:
    with pytest.raises(BuildFailed) as caught:
        await builder.build(await function(builder, "fail"))
    assert "step 1 (RUN python -c 'run_function(fail)')" in caught.value.text
    assert "ValueError: no luck" in caught.value.text
    assert "runner" not in caught.value.text
    with pytest.raises(BuildFailed, match="exit code 3"):
        await builder.build(await function(builder, "leave", 3))
    with pytest.raises(BuildFailed, match="longer than its timeout of 1 s"):
        await builder.build(await function(builder, "sleep", supplies={"timeout": 1}))
    with pytest.raises(BuildFailed, match=r"program\.gone does not exist"):
        await builder.build(await function(builder, "gone"))
    assert [name for name in builder.names("layers") if name.startswith(".new")] == []


async def test_a_functions_volumes_are_mounted_while_it_runs(builder: Builder, tmp_path: Path) -> None:
    step = await function(builder, "write_to_volume", supplies={"volumes": [["/data", "volume", "vo-1", False, {}]]})
    with pytest.raises(BuildFailed, match="cannot mount anything at /data"):
        await builder.build(step)
    (tmp_path / "model").write_text("weights")
    kept = []
    builder.lends.directory = tmp_path
    builder.lends.at_end = lambda: kept.append((tmp_path / "new").read_text())
    builder.images.workshop.lends = builder.lends
    config = await builder.build(step)
    assert "weights" in builder.printed
    assert kept == ["kept"]
    assert not (builder.images.layer_paths(config)[1] / "data/new").exists()
