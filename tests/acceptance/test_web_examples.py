"""The documentation's web programs, unchanged, driven by real clients, and a WebRTC program of the documented shape.

What builds images of its own is slow (minutes): set INTERMODAL_SLOW_TESTS=1.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from intermodal.worker.images import interpreters
from tests.acceptance.conftest import PROGRAMS, Platform, ProgramFinder, new_platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

OWN = Path(__file__).with_name("programs")
BOXES = 500

slow = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("INTERMODAL_SLOW_TESTS") != "1", reason="slow: set INTERMODAL_SLOW_TESTS=1"),
    pytest.mark.skipif(interpreters.find("3.12") is None, reason="the programs ask for Python 3.12; none is here"),
]


def examples(test: object) -> object:
    for mark in slow:
        test = mark(test)
    return test


def deploy(platform: Platform, *what: str | Path, cwd: Path) -> dict[str, str]:
    """`modal deploy`. The base address of each web function, by way of 127.0.0.1."""
    told = platform.builds("deploy", *what, cwd=cwd)
    urls = re.findall(r"Created web (?:function|endpoint for) (\S+?)\.? => http://([^.]+)\.localhost:(\d+)", told)
    assert urls, told
    return {name: f"127.0.0.1:{port}/_web/{label}" for name, label, port in urls}


@pytest.fixture(scope="module")
def constrained() -> Iterator[Platform]:
    """A platform whose builds keep to the versions of the day when `fasthtml_checkboxes` was written."""
    constraints = PROGRAMS / "examples/constraints/fasthtml_checkboxes.txt"
    if not constraints.exists():
        pytest.skip("the documented programs are not beside this checkout")
    with new_platform() as platform:
        platform.env["PIP_CONSTRAINT"] = str(constraints)
        assert platform.intermodal("up").code == 0
        yield platform


@examples
def test_checkboxes_keep_their_state(constrained: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    """Toggles reach other pages, and what the app saves at its shutdown is there for the next container."""
    package = tmp_path / "boxes"
    package.mkdir()
    program("examples/fasthtml_checkboxes", "boxes/fasthtml_checkboxes.py")
    (package / "__init__.py").touch()
    (package / "constants.py").write_text(f"N_CHECKBOXES = {BOXES}\n")
    (package / "styles.css").write_text("input { margin: 2px }\n")
    base = "http://" + deploy(constrained, "-m", "boxes.fasthtml_checkboxes", cwd=tmp_path)["web"]
    page = httpx.get(base + "/", timeout=60).text
    assert page.count('type="checkbox"') == BOXES
    client = re.search(r"/diffs/([0-9a-f-]{36})", page)
    assert client, page[-1000:]
    assert httpx.post(base + "/checkbox/toggle/7", timeout=60).status_code == 200
    diffs = httpx.get(f"{base}/diffs/{client[1]}", timeout=60).text
    assert re.search(r'<input[^>]* checked [^>]*id="cb-7"', diffs), diffs
    listed = json.loads(constrained.modal("container", "list", "--json").out)
    assert constrained.modal("container", "stop", listed[0]["Container ID"]).code == 0
    page = httpx.get(base + "/", timeout=60).text
    assert re.search(r'<input[^>]* checked [^>]*id="cb-7"', page)


@examples
def test_faces_are_counted(platform: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    """An upload goes from a web function to another function as an argument of some hundred kilobytes."""
    packages = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", tmp_path, "scikit-image"]
    subprocess.run(packages, check=True, capture_output=True, timeout=300)
    with zipfile.ZipFile(next(tmp_path.glob("scikit_image*.whl"))) as wheel:
        photo = wheel.read("skimage/data/astronaut.png")
    path = program("examples/count_faces")
    base = "http://" + deploy(platform, path, cwd=tmp_path)["web"]
    assert "Upload an Image to Count Faces" in httpx.get(base + "/", timeout=60).text
    answer = httpx.post(base + "/process", files={"file": photo}, timeout=120)
    assert "One Face Detected" in answer.text


@examples
def test_a_page_for_a_job_queue(platform: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    """`doc_ocr_webapp`: calls of another app's function are spawned and polled by their ids. That app is a stand-in."""
    jobs = tmp_path / "jobs.py"
    jobs.write_text(
        "import modal\napp = modal.App('example-doc-ocr-jobs')\n\n"
        "@app.function()\ndef parse_receipt(image: bytes) -> str:\n    return f'{len(image)} bytes'\n"
    )
    assert platform.modal("deploy", jobs).code == 0
    (tmp_path / "doc_ocr_frontend").mkdir()
    (tmp_path / "doc_ocr_frontend/index.html").write_text("<h1>Receipts</h1>")
    base = "http://" + deploy(platform, program("examples/doc_ocr_webapp"), cwd=tmp_path)["wrapper"]
    assert httpx.get(base + "/", timeout=60).text == "<h1>Receipts</h1>"
    call = httpx.post(base + "/parse", files={"receipt": bytes(1_000_000)}, timeout=60).json()["call_id"]
    assert call.startswith("fc-")
    statuses = []
    while not statuses or statuses[-1] == 202:
        answer = httpx.get(f"{base}/result/{call}", timeout=60)
        statuses.append(answer.status_code)
    assert (statuses[-1], answer.json()) == (200, "1000000 bytes")


@examples
def test_a_gradio_page_for_a_webcam(platform: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    """`fastrtc_flip_webcam`: its page and its configuration. The pictures need a browser with a camera."""
    base = "http://" + deploy(platform, program("examples/fastrtc_flip_webcam"), cwd=tmp_path)["ui"]
    assert "gradio" in httpx.get(base + "/", timeout=90, follow_redirects=True).text
    config = httpx.get(base + "/config", timeout=60).json()
    assert any("Streaming Video Processing" in str(part.get("props")) for part in config["components"])


def webrtc(tmp_path: Path) -> Path:
    """The directory from which the package `webrtc` can be deployed by name."""
    (tmp_path / "webrtc").symlink_to(OWN / "webrtc")
    return tmp_path


def test_signalling_by_websocket_and_queue(platform: Platform, tmp_path: Path) -> None:
    """A web class that inherits its app from an undecorated base spawns a peer and talks with it through a queue."""
    base = deploy(platform, "-m", "webrtc.signalling", cwd=webrtc(tmp_path))["Server.web"]
    assert httpx.get(f"http://{base}/", timeout=60).text == "<h1>Call</h1>"

    async def call(peer: str) -> list[dict[str, object]]:
        told = []
        async with connect(f"ws://{base}/ws/{peer}", open_timeout=60) as socket:
            for number in range(3):
                await socket.send(json.dumps({"type": "offer", "sdp": f"{peer}{number}"}))
                told.append(json.loads(await socket.recv()))
            await socket.send(json.dumps({"type": "bye"}))
            told.append(json.loads(await socket.recv()))
        return told

    async def two() -> list[list[dict[str, object]]]:
        return await asyncio.gather(call("one"), call("two"))

    for peer, told in zip(("one", "two"), asyncio.run(two()), strict=True):
        assert [(answer["peer"], answer["sdp"]) for answer in told[:3]] == [
            (peer, f"{peer}{number}"[::-1]) for number in range(3)
        ]
        assert told[3]["type"] == "ended"
    assert platform.modal("app", "stop", "webrtc-signalling").code == 0


@examples
def test_frames_through_a_peer(platform: Platform, tmp_path: Path) -> None:
    """Video goes from this machine to a container and back, turned upside down, by a connection that two peers made."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    needed = [python, "-m", "pip", "install", "-q", "aiortc", "numpy", "websockets"]
    subprocess.run(needed, check=True, capture_output=True, timeout=300)
    base = deploy(platform, "-m", "webrtc.media", cwd=webrtc(tmp_path))["Server.web"]
    client = [python, Path(__file__).with_name("webrtc_client.py"), f"ws://{base}/ws/one"]
    seen = json.loads(subprocess.run(client, check=True, stdout=subprocess.PIPE, timeout=120).stdout)
    assert (seen["state"], seen["ended"]) == ("connected", "ended")
    assert seen["top"] < 40 < 200 < seen["bottom"]
