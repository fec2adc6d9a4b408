"""Programs of the documentation, unchanged, through the real command line, with what they should print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import PATIENCE, Platform, ProgramFinder, Ran
from tests.acceptance.site import served

pytestmark = pytest.mark.acceptance


def test_hello_world(platform: Platform, program: ProgramFinder) -> None:
    ran = platform.modal("run", program("examples/hello_world"))
    assert ran.code == 0, ran.text
    own = [line for line in ran.lines() if not re.fullmatch(r"(hello|world) \d+", line)]
    assert own == ["1000000", "1000000", "2646700"]
    hellos = [line for line in ran.lines() if line.startswith("hello ")]
    worlds = [line for line in ran.text.splitlines() if line.startswith("world ")]
    # Once locally, once by .remote, once each by .map: none lost, none torn.
    assert sorted(hellos) == sorted(["hello 1000"] * 2 + [f"hello {i}" for i in range(0, 200, 2)])
    assert sorted(worlds) == sorted(f"world {i}" for i in range(1, 200, 2))


@pytest.fixture
def site(platform: Platform) -> Iterator[str]:
    """A page on this machine that containers can reach."""

    with served(platform, b'<html><a href="/one">1</a> <a href="http://two.example/">2</a></html>') as url:
        yield url


def test_scrape(platform: Platform, program: ProgramFinder, site: str) -> None:
    ran = platform.modal("run", program("examples/scrape"), "--url", site)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["['/one', 'http://two.example/']"]


@pytest.mark.parametrize(
    ("target", "line"), [("", "Hello world!"), ("::f", "Hello world!"), ("::app.g", "Goodbye world!")]
)
def test_apps_and_entrypoints(platform: Platform, program: ProgramFinder, target: str, line: str) -> None:
    path = program("guide/apps-functions-and-entrypoints__j1")
    ran = platform.modal("run", f"{path}{target}")
    assert ran.code == 0, ran.text
    assert ran.lines() == [line]


def test_arguments_pass_through(platform: Platform, program: ProgramFinder) -> None:
    path = program("guide/apps-functions-and-entrypoints__j2")
    assert platform.modal("run", path, "--foo", "1", "--bar", "x").code == 0
    bad = platform.modal("run", path, "--foo", "no-number")
    assert bad.code != 0
    assert "invalid int value" in bad.text


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("asynchronous-api-usage__1", []),
        ("asynchronous-api-usage__j1", ["420"]),
        ("scaling-out__1", []),
        ("scaling-out__j1", ["[0, 1, UserCodeException(Exception('ohno'))]"]),
        ("scaling-out__j2", []),
        ("dynamic-batching-beta__j1", ["Sum: 301", "Sum: 202", "Sum: 103"]),
        ("failures-and-retries__j1", ["Exception handled"]),
        ("parametrized-functions__j1", []),
        ("running-untrusted-code-in-functions__2", ["Result: 55"]),
        ("troubleshooting__1", []),
    ],
)
def test_guide_program(platform: Platform, program: ProgramFinder, name: str, lines: list[str]) -> None:
    ran = platform.modal("run", program(f"guide/{name}"))
    assert ran.code == 0, ran.text
    assert ran.lines() == lines


def test_concurrent_functions_of_the_guide(platform: Platform, program: ProgramFinder) -> None:
    path = program("guide/input-concurrency__j1")
    for name in ("sleep_sync", "sleep_async"):
        ran = platform.modal("run", f"{path}::{name}")
        assert ran.code == 0, ran.text
    logging = platform.modal("run", program("guide/input-concurrency__j2"), "--x", "3")
    assert logging.code == 0, logging.text


def test_global_variable_of_a_local_file(platform: Platform, program: ProgramFinder) -> None:
    path = program("guide/global-variables__j1")
    (path.parent / "blob.json").write_text("{}")
    ran = platform.modal("run", path, cwd=path.parent)
    assert ran.code == 1
    assert "FileNotFoundError" in ran.text
    assert "blob.json" in ran.text


def test_passing_local_data(platform: Platform, program: ProgramFinder) -> None:
    path = program("guide/passing-local-data__j1")
    (path.parent / "blob.json").write_text(json.dumps({"numbers": [1, 2, 3]}))
    ran = platform.modal("run", path, cwd=path.parent)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["6"]


def test_deployed_functions(platform: Platform, program: ProgramFinder) -> None:
    deployed = platform.modal("deploy", program("guide/invoking-deployed-functions__1"))
    assert deployed.code == 0, deployed.text
    assert "App deployed" in deployed.text
    ran = platform.modal("run", program("guide/invoking-deployed-functions__3"))
    assert ran.code == 0, ran.text
    listed = json.loads(platform.modal("app", "list", "--json").out)
    assert any("my-shared-app" in app.values() for app in listed)
    assert platform.modal("app", "stop", "my-shared-app").code == 0


def test_project_structure(platform: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    package = tmp_path / "project"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in ("llm", "web"):
        (package / f"{name}.py").write_text(
            f"import modal\n{name}_app = modal.App('{name}')\n\n"
            f"@{name}_app.function()\ndef {name}_f(): return '{name}'\n"
        )
    program("guide/project-structure__1").rename(package / "deploy.py")
    deployed = platform.modal("deploy", "-m", "project.deploy", cwd=tmp_path)
    assert deployed.code == 0, deployed.text
    caller = tmp_path / "caller.py"
    caller.write_text(
        "import modal\nfor n in ('llm', 'web'): print(modal.Function.from_name('full-app', n + '_f').remote())\n"
    )
    called = _python(platform, caller)
    assert called.lines() == ["llm", "web"], called.text
    assert platform.modal("app", "stop", "full-app").code == 0


def _python(platform: Platform, path: Path) -> Ran:
    import subprocess
    import sys

    from tests.acceptance.conftest import Ran

    done = subprocess.run(
        [sys.executable, path], env=platform.env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_job_queue(platform: Platform, program: ProgramFinder) -> None:
    path = program("guide/job-processing__1")
    assert platform.modal("deploy", path).code == 0
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["{'result': 'my-data'}"]
    assert platform.modal("app", "stop", "my-job-queue").code == 0


def test_types_of_an_imported_module_keep_their_identity(
    platform: Platform, program: ProgramFinder, tmp_path: Path
) -> None:
    (tmp_path / "my_types.py").write_text("import dataclasses\n@dataclasses.dataclass\nclass MyType:\n    foo: int\n")
    path = program("guide/troubleshooting__3")
    text = path.read_text()
    missing = platform.modal("run", path)
    assert missing.code == 1
    assert "my_types" in missing.text
    path.write_text(
        text.replace("modal.App()", "modal.App(image=modal.Image.debian_slim().add_local_python_source('my_types'))")
    )
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text


def test_remote_error_of_the_users_own(platform: Platform, program: ProgramFinder) -> None:
    ran = platform.modal("run", program("guide/troubleshooting__4"))
    assert ran.code == 1
    assert "TypeError: 'module' object is not callable" in ran.text
