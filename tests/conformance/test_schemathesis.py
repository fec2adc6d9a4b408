"""Requests that schemathesis makes up from an app's schema have the same answers from uvicorn and from the gateway.

Schemathesis is fetched when the test runs, so it runs with INTERMODAL_SLOW_TESTS=1 alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance import shop
from tests.integration.gateway import conftest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.environ.get("INTERMODAL_SLOW_TESTS") != "1", reason="slow: set INTERMODAL_SLOW_TESTS=1"),
]

make_rig = conftest.make_rig  # the fixture
Answered = tuple[str, str, str, int]  # method, path and query, body, status


def answers(tools: Path, schema: Path, url: str) -> list[Answered]:
    """What it asked, in order, and with which status each was answered."""
    archive = schema.with_name(f"{url.rpartition(':')[2].partition('/')[0]}.har")
    command = [
        sys.executable, str(tools / "bin" / "schemathesis"), "run", str(schema), "--url", url,
        "--generation-deterministic", "-n", "25", "--workers", "1", "--continue-on-failure",
        "--phases", "examples,coverage,fuzzing", "--no-color", "--report", "har", "--report-har-path", str(archive),
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(tools)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=schema.parent)
    assert archive.exists(), done.stdout + done.stderr
    entries = json.loads(archive.read_text())["log"]["entries"]
    return [_answered(entry, url) for entry in entries]


def _answered(entry: dict[str, Any], url: str) -> Answered:
    asked = entry["request"]
    body = (asked.get("postData") or {}).get("text") or ""
    return asked["method"], asked["url"].removeprefix(url), body, entry["response"]["status"]


async def test_same_as_in_front(make_rig: conftest.MakeRig, tmp_path: Path) -> None:
    tools, schema = tmp_path / "tools", tmp_path / "openapi.json"
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--target", str(tools)]
    await asyncio.to_thread(subprocess.run, [*pip, "schemathesis"], check=True)
    schema.write_text(json.dumps(shop.app.openapi()))
    rig = await make_rig(shop.app)
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", "0", "--log-level", "info"]
    with subprocess.Popen(command, cwd=Path(shop.__file__).parent, stderr=subprocess.PIPE, text=True) as uvicorn:
        try:
            assert uvicorn.stderr is not None
            line = await asyncio.to_thread(lambda: next(line for line in uvicorn.stderr if "http://" in line))  # type: ignore[union-attr]
            direct = "http://" + line.split("http://")[1].split()[0]
            asyncio.get_running_loop().run_in_executor(None, uvicorn.stderr.read)
            assert httpx.get(f"{direct}/items/1", timeout=30).status_code == 200
            expected = await asyncio.to_thread(answers, tools, schema, direct)
            ours = f"http://127.0.0.1:{rig.port}/_web/ecorp--shop-web"
            found = await asyncio.to_thread(answers, tools, schema, ours)
        finally:
            uvicorn.terminate()
    assert len(expected) > 100
    assert {status for *_rest, status in expected} >= {200, 201, 204, 404, 422, 500}
    assert found == expected
