"""`modal run` from the shell's side: what it prints, what it passes on, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from modal._protocol.messages import app
from tests.integration.cli.conftest import Modal
from tests.integration.cli.fake_server import FakeServer

HELLO = """
import sys
import modal

app = modal.App("example-hello-world")

@app.function()
def f(i):
    if i % 2 == 0:
        print("hello", i)
    else:
        print("world", i, file=sys.stderr)
    return i * i

@app.local_entrypoint()
def main():
    print(f.local(1000))
    print(f.remote(1000))
    total = 0
    for ret in f.map(range(20)):
        total += ret
    print(total)
"""

PROGRAM = """
import asyncio
import datetime
from typing import Optional
import modal

app = modal.App("my-app")

@app.function()
def square(x: int = 3, flag: bool = False, when: Optional[datetime.datetime] = None): ...

@app.function()
def other(*arglist): ...

@app.function()
def generate(n: int):
    yield n

@app.cls()
class Model:
    foo: str = modal.parameter()
    bar: int = modal.parameter(default=10)

    @modal.method()
    def predict(self, x: float): ...

    @modal.method()
    def describe(self): ...

@app.local_entrypoint()
def main(n: int = 2):
    print("main", n, square.remote(n))

@app.local_entrypoint()
async def run_async(text: str):
    print("async", text, await square.remote.aio(4))

@app.local_entrypoint()
def fail():
    raise ValueError("local trouble")

@app.local_entrypoint()
def fail_remotely():
    square.remote(1)

@app.local_entrypoint()
def leave(code: str):
    raise SystemExit(int(code) if code.isdigit() else code)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def test_hello_world(modal: Modal, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(HELLO)

    def f(i: int) -> int:
        server.print_line(server.current_app, f"{'world' if i % 2 else 'hello'} {i}\n", 1 + i % 2)
        return i * i

    server.functions["f"] = f
    done = modal("run", "hello.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "✓ Initialized. View app page at http://dashboard.test/apps/x.",
        "Building image im-1",
        "=> Step 0: FROM base",
        "building",
        "Built image im-1 in 0.50s",
        "",
        "✓ Created objects.",
        f"├── 🔨 Created mount {tmp_path}/hello.py",
        "└── 🔨 Created function f.",
        "hello 1000",
        "1000000",
        "hello 1000",
        "1000000",
        *[f"hello {i}" for i in range(0, 20, 2)],
        "2470",
        "✓ App completed. View app page at http://dashboard.test/apps/x",
    ]
    assert done.stderr.splitlines() == [f"world {i}" for i in range(1, 20, 2)]
    quiet = modal("run", "-q", "hello.py").stdout.splitlines()
    assert quiet[0] == "hello 1000"
    assert quiet[-1] == "2470"


@pytest.mark.parametrize(
    ("reference", "args", "called"),
    [
        ("program.py::square", "--x 5 --flag", ("square", (), {"x": 5, "flag": True})),
        ("program.py::app.square", "", ("square", (), {})),
        ("program.py::other", "--x 5 -- --help", ("other", ("--x", "5", "--", "--help"), {})),
        ("program.py::generate", "--n 1", ("generate", (), {"n": 1})),
        ("program.py::Model.predict", "--foo a --x 1.5", ("Model.predict", (), {"x": 1.5})),
        ("program.py::app.Model.describe", "--foo a --bar 7", ("Model.describe", (), {})),
    ],
)
def test_functions_and_methods(
    modal: Modal, server: FakeServer, program: Path, reference: str, args: str, called: object
) -> None:
    calls = []
    for name in ("square", "other", "generate", "Model.predict", "Model.describe"):
        server.functions[name] = lambda *a, name=name, **k: calls.append((name, a, k)) or [1]
    done = modal("run", reference, *args.split())
    assert done.returncode == 0, done.stderr
    assert calls == [called]


def test_entrypoints(modal: Modal, server: FakeServer, program: Path) -> None:
    server.functions["square"] = lambda x: x * x
    assert "main 5 25" in modal("run", "program.py::main", "--n=5").stdout.splitlines()
    assert "async hi 16" in modal("run", "program.py::run_async", "--text", "hi").stdout.splitlines()
    assert "main 2 4" in modal("run", "-m", "program::app.main").stdout.splitlines()


def test_several_candidates_are_listed(modal: Modal, program: Path) -> None:
    done = modal("run", "program.py")
    assert done.returncode == 2
    assert "modal run program.py::main" in done.stderr
    assert "modal run program.py::run_async" in done.stderr
    done = modal("run", "program.py::squar")
    assert done.returncode == 2
    assert "Did you mean 'square'?" in done.stderr
    assert "program.py::Model.predict" in done.stderr
    done = modal("run", "program.py::Model")
    assert done.returncode == 2
    assert "Model.describe" in done.stderr
    done = modal("run", "program.py::square", "--y", "1")
    assert done.returncode == 2
    assert "--y" in done.stderr


def test_options_of_the_entrypoint_in_its_help(modal: Modal, server: FakeServer, program: Path) -> None:
    done = modal("run", "program.py::Model.predict", "--help")
    assert done.returncode == 0
    for part in ("modal run program.py::Model.predict", "--foo TEXT", "--bar INTEGER", "[default: 10]", "--x FLOAT"):
        assert part in done.stdout
    assert server.of(app.AppCreate) == []


def test_local_errors_show_the_users_frames(modal: Modal, program: Path) -> None:
    done = modal("run", "program.py::fail")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-4:] == [
        "Traceback (most recent call last):",
        f'  File "{program}", line {PROGRAM[: PROGRAM.index("local trouble")].count(chr(10)) + 1}, in fail',
        '    raise ValueError("local trouble")',
        "ValueError: local trouble",
    ]
    assert "Stopping app - ValueError was raised." in done.stdout
    assert "modal/cli/run.py" in modal("run", "program.py::fail", MODAL_TRACEBACK="1").stderr


def test_remote_errors_show_both_sides(modal: Modal, server: FakeServer, program: Path) -> None:
    def square(x: int) -> None:
        raise RuntimeError("remote trouble")

    server.functions["square"] = square
    done = modal("run", "program.py::fail_remotely")
    assert done.returncode == 1
    assert "in fail_remotely" in done.stderr
    assert "in square" in done.stderr
    assert done.stderr.splitlines()[-1] == "RuntimeError: remote trouble"
    assert "/modal/" not in done.stderr


def test_the_programs_own_exit_status(modal: Modal, program: Path) -> None:
    assert modal("run", "program.py::leave", "--code", "7").returncode == 7
    done = modal("run", "program.py::leave", "--code", "because")
    assert (done.returncode, done.stderr) == (1, "because\n")


def test_write_result(modal: Modal, server: FakeServer, program: Path, tmp_path: Path) -> None:
    server.functions["square"] = lambda: b"\x00bytes"
    assert modal("run", "-w", "out.bin", "program.py::square").returncode == 0
    assert (tmp_path / "out.bin").read_bytes() == b"\x00bytes"
    server.functions["square"] = lambda: 5
    done = modal("run", "--write-result=out.txt", "program.py::square")
    assert done.returncode == 1
    assert "returned int" in done.stderr
    assert modal("run", "-w", "no/such/out.txt", "program.py::square").returncode == 2


def test_interactive_is_not_there_yet(modal: Modal, program: Path) -> None:
    done = modal("run", "-i", "program.py::square")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not implemented yet" in done.stderr


def test_environment_reaches_the_program(modal: Modal, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(
        "import os, modal\nprint('at import', os.environ['MODAL_ENVIRONMENT'])\napp = modal.App()\n"
        "@app.local_entrypoint()\ndef main(): ...\n"
    )
    done = modal("run", "--env=dev", "p.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("at import dev\n")
    (created,) = server.of(app.AppCreate)
    assert (created.environment, created.description) == ("dev", "p.py")


def test_detach(modal: Modal, server: FakeServer, program: Path) -> None:
    done = modal("run", "--detach", "program.py::main")
    assert done.returncode == 0, done.stderr
    assert len(server.of(app.AppDetach)) == 1
    assert server.of(app.AppStop) == []
    assert "goes on without this command" in done.stdout


SLOW = """
import modal
app = modal.App("slow")

@app.function()
def work(): ...

@app.local_entrypoint()
def main():
    work.remote()
"""


@pytest.fixture
def slow(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)

    async def work() -> None:
        await asyncio.sleep(60)

    server.functions["work"] = work


Start = Callable[..., "subprocess.Popen[bytes]"]


def test_ctrl_c_stops_the_app(start: Start, server: FakeServer, slow: None) -> None:
    from modal._protocol.messages.call import Invoke

    process = start("run", "slow.py")
    server.wait_for(Invoke)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert b"Stopping app - interrupted by Ctrl-C." in out
    assert "✓ App stopped." in out.decode()
    assert err == b""
    assert [message.force for message in server.of(app.AppStop)] == [False]


def test_sigterm_stops_the_app_too(start: Start, server: FakeServer, slow: None) -> None:
    from modal._protocol.messages.call import Invoke

    process = start("run", "slow.py")
    server.wait_for(Invoke)
    process.terminate()
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (143, b"")
    assert b"Stopping app - terminated." in out
    assert len(server.of(app.AppStop)) == 1


def test_ctrl_c_twice_kills(start: Start, server: FakeServer, slow: None) -> None:
    from modal._protocol.messages.call import Invoke

    server.stop_delay = 60.0
    process = start("run", "slow.py")
    server.wait_for(Invoke)
    process.send_signal(signal.SIGINT)
    server.wait_for(app.AppStop)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert b"Killed" in err
    assert b"Traceback" not in err
    assert [message.force for message in server.of(app.AppStop)] == [False, True]


def test_ctrl_c_leaves_a_detached_app_running(start: Start, server: FakeServer, slow: None) -> None:
    from modal._protocol.messages.call import Invoke

    process = start("run", "--detach", "slow.py")
    server.wait_for(Invoke)
    process.send_signal(signal.SIGINT)
    out, _err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert b"goes on without this command" in out
    assert server.of(app.AppStop) == []


def test_a_reader_that_goes_away_stops_the_app(start: Start, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)

    async def work() -> None:
        while True:
            server.print_line(server.current_app, "line\n" * 100)
            await asyncio.sleep(0.01)

    server.functions["work"] = work
    read, write = os.pipe()
    process = start("run", "slow.py", stdout=write)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.readline().startswith("✓".encode())
    _out, err = process.communicate(timeout=200)
    assert process.returncode == 141
    assert err == b""
    assert len(server.of(app.AppStop)) == 1


def test_deploy(modal: Modal, server: FakeServer, program: Path) -> None:
    done = modal("deploy", "program.py", "--tag", "v7", "--name", "other-name")
    assert done.returncode == 0, done.stderr
    (published,) = server.of(app.AppPublish)
    assert (published.deploy, published.name, published.tag) == (True, "other-name", "v7")
    lines = done.stdout.splitlines()
    assert "├── 🔨 Created function square." in lines
    assert lines[-3:] == ["✓ App deployed! 🎉", "", "View Deployment: http://dashboard.test/apps/x"]


def test_deploy_needs_a_name(modal: Modal, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("import modal\napp = modal.App()\n@app.function()\ndef f(): ...\n")
    done = modal("deploy", "p.py")
    assert done.returncode == 2
    assert "--name" in done.stderr
    assert modal("deploy", "--name", "x", "p.py").returncode == 0


def test_deploy_and_stream_logs(start: Start, server: FakeServer, program: Path) -> None:
    process = start("deploy", "--stream-logs", "program.py")
    server.wait_for(app.AppAttach)
    (app_id,) = server.apps
    server.print_line(app_id, "from the deployment\n")
    server._loop.call_soon_threadsafe(server.apps[app_id].stopped.set)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert b"from the deployment\n" in out
