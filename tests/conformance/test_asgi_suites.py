"""The test suites of Starlette and FastAPI, with the gateway between their client and each app.

They are fetched from the package index, as they are, for the versions that are installed here: minutes, so they run
with INTERMODAL_SLOW_TESTS=1 alone. What fails must be on the list of what cannot apply, with the reason.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("INTERMODAL_SLOW_TESTS") != "1", reason="slow: set INTERMODAL_SLOW_TESTS=1"),
]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STARLETTE_NEEDS = ["starlette[full]", "httpx2", "trio"]
FASTAPI_NEEDS = [
    *STARLETTE_NEEDS, "inline-snapshot", "dirty-equals", "email-validator", "orjson", "ujson", "pyjwt",
    "pwdlib[argon2]", "sqlmodel", "flask", "pydantic-settings", "pydantic-extra-types", "a2wsgi",
]  # fmt: skip
STARLETTE_SKIPS = [
    "tests/test_testclient.py",  # tests the client itself, which is not the gateway's
    "tests/middleware/test_opentelemetry.py",  # needs a package of its own
]
FASTAPI_SKIPS = [
    "tests/benchmarks", "tests/memory_benchmarks", "tests/test_telemetry", "tests/test_prepare_release.py",
    "tests/test_fastapi_cli.py", "tests/test_tutorial/test_graphql", "tests/test_tutorial/test_opentelemetry",
]  # fmt: skip
NOT_APPLICABLE = {
    # what the plugin's own client cannot send, or shows in another way
    "headers that h11 refuses to send":
        r"test_https_redirect_middleware|with_unreliable_content_length|test_cookies_invalid|with_if_none_match_wildcard"
        r"|with_whitespaces",
    "the wire's client has headers of its own, in lower case":
        r"test_websocket_route_middleware|test_request_headers|test_websocket_headers",
    "messages that no client can send":
        r"test_receive_before_accept|test_receive_wrong_message_type|test_send_wrong_message_type",
    "context variables of the test are not the app's":
        r"test_accessing_context_from_threaded_sync_endpoint|test_dependency_yield_scope_websockets",
    # what HTTP has no room for
    "a WebSocket that is refused has a status code, and no code of its closing":
        r"test_rejected_connection|test_depend_(validation|err_middleware|err_handler)",
    "an informational status as the final one": r"test_response_phrase",
    "unknown methods get 501 from the gateway": r"test_http_endpoint_does_not_dispatch_non_verb_method",
    "hosts that the gateway itself refuses with 400":
        r"test_host_routing_(ip_literals|rejects_invalid_hosts)|test_trusted_host_middleware_ipv6",
    # extensions of ASGI that a server may leave out, and that are not announced to apps
    "trailers and push are not offered": r"trailers|push_promise",
    # decided otherwise, as ASGI has it
    "a response begins with its first body: an app that fails before gets 500": r"test_broken_session_stream_no_raise",
    # of the machine
    "root may read everything": r"test_staticfiles_with_invalid_dir_permissions_returns_401",
}  # fmt: skip


def run_suite(directory: Path, name: str, needs: list[str], skips: list[str]) -> tuple[int, list[str]]:
    """How many tests passed, and the names of those that did not."""
    version = importlib.metadata.version(name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    fetch = [*pip, "download", "--no-deps", "--no-binary", ":all:", "-d", str(directory), f"{name}=={version}"]
    subprocess.run(fetch, check=True)
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    for skip in skips:  # not only left out: pytest reads the conftest.py of every directory
        path = directory / f"{name}-{version}" / skip
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    extra = directory / "extra"
    pinned = f"starlette=={importlib.metadata.version('starlette')}"
    subprocess.run([*pip, "install", "--target", str(extra), pinned, *needs], check=True)
    python_path = os.pathsep.join([str(extra), str(HERE), str(ROOT / "src")])
    command = [
        sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "-p", "no:asyncio",
        "-p", "through_gateway", "-c", os.devnull, "--rootdir", ".", "--timeout", "120", "-k", "not trio", "tests",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=directory / f"{name}-{version}",
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout[-5000:] + done.stderr
    print(done.stdout[-3000:])
    return int(passed.group(1)), re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)


def check(failed: list[str]) -> None:
    unknown = [name for name in failed if not any(re.search(pattern, name) for pattern in NOT_APPLICABLE.values())]
    assert not unknown


def test_starlette(tmp_path: Path) -> None:
    passed, failed = run_suite(tmp_path, "starlette", STARLETTE_NEEDS, STARLETTE_SKIPS)
    check(failed)
    assert passed > 600


def test_fastapi(tmp_path: Path) -> None:
    passed, failed = run_suite(tmp_path, "fastapi", FASTAPI_NEEDS, FASTAPI_SKIPS)
    check(failed)
    assert passed > 4000
