"""`modal serve`, with the real command and real edits of the files that a program consists of."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import textwrap
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import Platform, ProgramFinder
from tests.acceptance.site import address
from tests.acceptance.site import served as page

pytestmark = pytest.mark.acceptance

WAIT = 120.0  # seconds at most for anything that an edit brings about: it only ends what hangs
SERVING = "Serving."

CALLER = """
import sys
from modal._client import Client
from modal._function import Function
from modal._protocol.messages.app import AppLayoutGet, AppPublished
from modal._sync import run

client = Client.current()
layout = run(client.request(AppLayoutGet(sys.argv[1]), AppPublished))
handle = next(handle for handle in layout.functions if handle.name == sys.argv[2])
function = Function.__new__(Function)
function._set_handle(handle, client)
print(function.remote(*sys.argv[3:]))
"""


class Served:
    """A running `modal serve` and what it prints."""

    def __init__(self, platform: Platform, *args: str | Path, cwd: Path, env: dict[str, str] | None = None) -> None:
        self.platform = platform
        environment = {"PYTHONUNBUFFERED": "1", **(env or {})}
        self.process = platform.start("modal", "serve", *args, cwd=cwd, env=environment, merged=True)
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, text: str) -> str:
        """The next line that contains `text`."""
        until = time.monotonic() + WAIT
        while (line := self._next(until, f"line with {text!r}")) is not None:
            self.lines.append(line)
            if text in line:
                return line
        pytest.fail(f"the command ended without a line with {text!r}:\n" + "\n".join(self.lines))

    def rest(self) -> list[str]:
        """All that is printed until the end."""
        until = time.monotonic() + WAIT
        while (line := self._next(until, "an end")) is not None:
            self.lines.append(line)
        return self.lines

    def _next(self, until: float, what: str) -> str | None:
        try:
            return self._queue.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            pytest.fail(f"no {what} after:\n" + "\n".join(self.lines))

    def app_id(self, name: str) -> str:
        """By the app's name: another test's app may be left, whose command was killed."""
        apps = json.loads(self.platform.modal("app", "list", "--json").out)
        (app_id,) = [app["App ID"] for app in apps if app["State"] == "ephemeral" and app["Description"] == name]
        return str(app_id)

    def call(self, app_id: str, name: str, *args: str) -> subprocess.Popen[str]:
        command = [*self.platform.command("x", *args)[:1], "-c", CALLER, app_id, name, *args]
        process = subprocess.Popen(command, env=self.platform.env, stdout=subprocess.PIPE, text=True)
        self.platform._started.append(process)
        return process

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def code(self) -> int:
        return self.process.wait(WAIT)


def save(path: Path, text: str) -> None:
    """As most editors do: the file is replaced by another one of its name."""
    beside = path.with_name(f".{path.name}.swp")
    beside.write_text(textwrap.dedent(text))
    os.replace(beside, path)


PROGRAM = """
    import modal
    from helper import WORD

    app = modal.App("served")
    image = (
        modal.Image.debian_slim()
        .add_local_python_source("helper")
        .add_local_file("note.txt", "/root/note.txt")
        .add_local_dir("data", "/root/data")
    )

    @app.function(image=image, min_containers=1)
    def f():
        pass

    if not modal.is_local():
        import os
        print("state", WORD, open("/root/note.txt").read(), sorted(os.listdir("/root/data")), flush=True)
"""


def test_any_involved_file_updates_the_app(platform: Platform, tmp_path: Path) -> None:
    """A module, an added file, a new file in an added directory, the program itself; errors; Ctrl-C."""
    (tmp_path / "data").mkdir()
    save(tmp_path / "data" / "one", "")
    save(tmp_path / "note.txt", "a")
    save(tmp_path / "helper.py", "WORD = 'first'")
    save(tmp_path / "served.py", PROGRAM)
    served = Served(platform, "served.py", cwd=tmp_path)
    served.wait_for(SERVING)
    served.wait_for("state first a ['one']")
    save(tmp_path / "helper.py", "WORD = 'second'")
    served.wait_for("helper.py changed")
    served.wait_for("Updated")
    served.wait_for("state second a ['one']")
    (tmp_path / "note.txt").write_text("b")  # in place
    served.wait_for("state second b ['one']")
    (tmp_path / "data" / "two").mkdir()
    (tmp_path / "data" / "two" / "three").write_text("")
    served.wait_for("state second b ['one', 'two']")
    save(tmp_path / "served.py", PROGRAM.replace("state", "status"))
    served.wait_for("status second b ['one', 'two']")

    save(tmp_path / "helper.py", "WORD = = 3")
    served.wait_for("helper.py")
    served.wait_for("WORD = = 3")
    served.wait_for("SyntaxError")
    served.wait_for("the version before goes on")
    save(tmp_path / "helper.py", "import other\nWORD = other.WORD")
    served.wait_for("No module named 'other'")
    served.wait_for("the version before goes on")
    save(tmp_path / "other.py", "WORD = 'third'")  # the file that was missing
    served.wait_for("Updated")
    (tmp_path / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "__pycache__" / "x.pyc").write_text("")
    (tmp_path / "data" / ".hidden").mkdir()
    (tmp_path / "data" / ".hidden" / "file").write_text("")
    save(tmp_path / "note.txt", "b")  # the same content
    save(tmp_path / "note.txt", "c")
    served.wait_for("note.txt changed")
    served.wait_for("Updated")
    served.interrupt()
    said = served.rest()
    assert served.code() == 0, said
    assert any("App stopped" in line for line in said)
    assert sum("changed: updating" in line for line in said) == 8, said


SLOW = """
    import modal
    app = modal.App("slow-serve")

    @app.function()
    def f(waits):
        print("begun {version}", flush=True)
        if waits:
            modal.Queue.from_name("slow-serve", create_if_missing=True).get()
        return "{version}"
"""


def test_running_inputs_finish_on_the_version_before(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "slow_serve.py"
    save(path, SLOW.format(version="v1"))
    served = Served(platform, path, "--timeout", "600", cwd=tmp_path)
    served.wait_for(SERVING)
    app_id = served.app_id("slow-serve")
    old = served.call(app_id, "f", "waits")
    served.wait_for("begun v1")
    save(path, SLOW.format(version="v2"))
    served.wait_for("Updated")
    new = served.call(app_id, "f", "")
    assert new.communicate(timeout=WAIT)[0].strip() == "v2"
    assert old.poll() is None
    let = platform.python("import modal; modal.Queue.from_name('slow-serve').put(1)")
    assert let.code == 0, let.text
    assert old.communicate(timeout=WAIT)[0].strip() == "v1"
    save(path, "import modal\napp = modal.App('slow-serve')\n")  # the function is gone
    served.wait_for("Updated")
    stopped = platform.modal("app", "stop", app_id)
    assert stopped.code == 0, stopped.text
    served.rest()
    assert served.code() == 1


BUILD = """
    import modal
    app = modal.App("build-serve", image=modal.Image.debian_slim().run_commands("{command}"))

    @app.function(min_containers=1)
    def f():
        pass

    if not modal.is_local():
        print("now", open("/version").read().strip(), flush=True)
"""


def test_edits_while_an_image_builds(platform: Platform, tmp_path: Path) -> None:
    """Only the last one counts; a failing build changes nothing."""
    path = tmp_path / "build_serve.py"
    save(path, BUILD.format(command="echo 0 > /version"))
    served = Served(platform, "build_serve.py", cwd=tmp_path)
    served.wait_for("now 0")
    for number in (1, 2):
        save(path, BUILD.format(command=f"sleep 1000 && echo {number} > /version"))
        served.wait_for(f"echo {number}")
    ask = "import urllib.request; urllib.request.urlopen('ADDRESS')".replace("ADDRESS", address(platform))
    save(path, BUILD.format(command=f'until python -c \\"{ask}\\"; do sleep 0.1; done 2>&-; echo 3 > /version'))
    served.wait_for("echo 3")
    save(path, path.read_text() + "# the image stays the same: its build goes on\n")
    served.wait_for("changed: updating")
    with page(platform, b"go on"):
        served.wait_for("now 3")
    assert not any(line in ("now 1", "now 2") for line in served.lines)
    assert sum("Updated" in line for line in served.lines) == 1
    save(path, BUILD.format(command="echo wrong; exit 7"))
    served.wait_for("the version before goes on")
    assert any("7" in line and "wrong" not in line for line in served.lines[-8:]), served.lines
    served.interrupt()
    said = served.rest()
    assert served.code() == 0, said


def test_time_that_is_over(platform: Platform, tmp_path: Path) -> None:
    save(tmp_path / "brief.py", SLOW.format(version="v1"))
    ran = platform.modal("serve", "brief.py", cwd=tmp_path, env={"MODAL_SERVE_TIMEOUT": "0.5"})
    assert ran.code == 0, ran.text
    assert "served for 0.5 seconds" in ran.out


def test_what_cannot_be_served_at_all(platform: Platform, tmp_path: Path) -> None:
    """Nothing is served before the first version is there: the command ends as `modal run` does."""
    broken = tmp_path / "broken.py"
    broken.write_text("import modal\napp = modal.App()\nraise ValueError('on import')\n")
    ran = platform.modal("serve", broken)
    assert ran.code == 1
    assert 'broken.py", line 3' in ran.err
    assert "ValueError: on import" in ran.err
    (tmp_path / "empty.py").write_text("x = 1\n")
    ran = platform.modal("serve", tmp_path / "empty.py")
    assert ran.code == 2
    assert "has no app" in ran.err
    ran = platform.modal("serve", tmp_path / "missing.py")
    assert ran.code == 2
    assert "No such file" in ran.err
    ran = platform.modal("serve", broken, "--timeout", "0")
    assert ran.code == 2
    assert "--timeout" in ran.err
    apps = json.loads(platform.modal("app", "list", "--json").out)
    assert not [app for app in apps if app["State"] == "ephemeral" and app["Description"] == "broken.py"]


def test_a_module_of_a_package(platform: Platform, tmp_path: Path) -> None:
    """-m: the package's modules are watched, also those that no one imports here."""
    package = tmp_path / "web"
    package.mkdir()
    save(package / "__init__.py", "")
    save(package / "late.py", "WORD = 1")
    save(
        package / "main.py",
        """
        import modal
        app = modal.App("packaged")

        @app.function(min_containers=1)
        def f():
            pass

        if not modal.is_local():
            from web import late
            print("late", late.WORD, flush=True)
        """,
    )
    served = Served(platform, "-m", "web.main", cwd=tmp_path)
    served.wait_for("late 1")
    save(package / "late.py", "WORD = 2")
    served.wait_for("late 2")
    served.process.terminate()
    served.rest()
    assert served.code() == 143


WEB = """
import asyncio, modal

app = modal.App("web-serve")

@app.function()
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def page():
    async def serve(scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["path"].endswith("/slow"):
            print("slow begins in {version}", flush=True)
            await asyncio.sleep(3)
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b"{version}"}})
    return serve
"""


def test_a_web_function_is_updated_without_a_failed_request(platform: Platform, tmp_path: Path) -> None:
    """The address stays, a request under way is answered by the version before, and none fails meanwhile."""
    path = tmp_path / "web_serve.py"
    save(path, WEB.format(version="v1"))
    served = Served(platform, path, cwd=tmp_path)
    line = served.wait_for("=> http")
    url = line.split("=> ")[1]
    assert "--web-serve-page-dev." in url
    served.wait_for(SERVING)
    name, port = url.split("//")[1].split(".")[0], url.rpartition(":")[2]
    base = f"http://127.0.0.1:{port}/_web/{name}"
    assert httpx.get(base, timeout=WAIT).text == "v1"
    slow: list[str] = []
    asking = threading.Thread(target=lambda: slow.append(httpx.get(f"{base}/slow", timeout=WAIT).text))
    asking.start()
    served.wait_for("slow begins in v1")
    save(path, WEB.format(version="v2"))
    answers = []
    with httpx.Client(timeout=WAIT) as client:
        while not answers or answers[-1].text == "v1":
            answers.append(client.get(base))
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].text == "v2"
    asking.join(WAIT)
    assert slow == ["v1"]
    served.wait_for("Updated")
    assert not [line for line in served.lines if line.count("=> http") and url not in line]
    served.interrupt()
    served.rest()
    assert served.code() == 0
    assert httpx.get(base, timeout=WAIT).status_code == 404


SHARED = """
import modal

app = modal.App("{app}")

@app.function()
@modal.asgi_app(label="shared-name")
def page():
    async def serve(scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["path"].endswith("/raise"):
            raise LookupError("the drawer is empty")
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b"{app}"}})
    return serve
"""


def test_the_newest_has_the_name_and_tracebacks_are_shown(platform: Platform, tmp_path: Path) -> None:
    """Two that want one name: the newer one answers until it ends, then the older one again."""
    addresses, running = set(), []
    for app in ("older", "newer"):
        save(tmp_path / f"{app}.py", SHARED.format(app=app))
        running.append(Served(platform, tmp_path / f"{app}.py", cwd=tmp_path))
        addresses.add(running[-1].wait_for("=> http").split("=> ")[1])
        running[-1].wait_for(SERVING)
    (url,) = addresses
    assert "--shared-name-dev." in url
    base = f"http://127.0.0.1:{url.rpartition(':')[2]}/_web/{url.split('//')[1].split('.')[0]}"
    assert httpx.get(base, timeout=WAIT).text == "newer"
    failed = httpx.get(f"{base}/raise", timeout=WAIT)
    assert failed.status_code == 500
    for shown in (failed.text, "\n".join(iter(lambda: running[1].wait_for(""), "LookupError: the drawer is empty"))):
        assert "Traceback (most recent call last)" in shown
    assert "LookupError: the drawer is empty" in failed.text
    for served, answer in zip(reversed(running), ("older", ""), strict=True):
        served.interrupt()
        served.rest()
        assert served.code() == 0
        after = httpx.get(base, timeout=WAIT)
        assert (after.text == answer) if answer else (after.status_code == 404)


def test_documented_program(platform: Platform, program: ProgramFinder) -> None:
    """The page's program: its web function and its schedule follow an edit."""
    path = program("guide/developing-and-debugging__1")
    served = Served(platform, path, cwd=path.parent)
    url = served.wait_for("=> http").split("=> ")[1]
    base = f"http://127.0.0.1:{url.rpartition(':')[2]}/_web/{url.split('//')[1].split('.')[0]}"
    assert httpx.get(base, timeout=90, follow_redirects=True).json() == "I update on file edit!"
    served.wait_for("I also update on file edit!")
    save(path, path.read_text().replace("on file edit!", "on every edit!"))
    served.wait_for("I also update on every edit!")
    assert httpx.get(base, timeout=90, follow_redirects=True).json() == "I update on every edit!"
    served.interrupt()
    served.rest()


STAYS = """
    import modal
    app = modal.App("stays")

    @app.function(min_containers=1)
    def f():
        return "{version}"

    if not modal.is_local():
        print("state {version}", flush=True)
"""


def test_a_server_that_is_killed_meanwhile(own_platform: Platform, tmp_path: Path) -> None:
    """kill -9 of the server, and a new start: the app is still served, its logs come, and an edit updates it."""
    assert own_platform.intermodal("up").code == 0
    path = tmp_path / "stays.py"
    save(path, STAYS.format(version="v1"))
    served = Served(own_platform, path, cwd=tmp_path)
    served.wait_for("state v1")
    app_id = served.app_id("stays")
    os.kill(int(own_platform.status()["pid"]), signal.SIGKILL)
    assert own_platform.intermodal("up").code == 0
    assert served.app_id("stays") == app_id
    save(path, STAYS.format(version="v2"))
    served.wait_for("Updated")
    served.wait_for("state v2")
    assert served.call(app_id, "f").communicate(timeout=WAIT)[0].strip() == "v2"
    served.interrupt()
    served.rest()
    assert served.code() == 0


def test_a_command_that_is_killed_leaves_no_process(platform: Platform, tmp_path: Path) -> None:
    """kill -9 while an image builds: the process that imports the program ends too, and the app after its grace."""
    path = tmp_path / "killed_serve.py"
    save(path, BUILD.format(command="sleep 1000; echo 9 > /version"))
    served = Served(platform, path, cwd=tmp_path)
    served.wait_for("sleep 1000")
    (child,) = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _parent_of(entry) == served.process.pid
    ]
    served.process.kill()
    until = time.monotonic() + WAIT
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def _parent_of(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
