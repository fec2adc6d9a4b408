"""Mistakes of users, through the real command line: what is wrong is named, and nothing hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, Ran

pytestmark = pytest.mark.acceptance

HEAD = "import modal\napp = modal.App('bad')\n\n"


def run(platform: Platform, directory: Path, text: str, *args: str, target: str = "") -> Ran:
    path = directory / "bad.py"
    path.write_text(HEAD + text)
    return platform.modal("run", f"{path}{target}", *args)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import os; os._exit(3)", "exited with code 3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import threading; return threading.Lock()", "cannot be serialized"),
        ("raise ValueError('the reason')", "ValueError: the reason"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import sys; sys.exit(4)", "SystemExit"),
    ],
)
def test_function_that_ends_badly(platform: Platform, tmp_path: Path, body: str, said: str) -> None:
    ran = run(platform, tmp_path, f"@app.function()\ndef f():\n    {body}\n")
    assert ran.code == 1, ran.text
    assert said in ran.text


def test_out_of_memory(platform: Platform, tmp_path: Path) -> None:
    text = "@app.function(memory=(64, 128))\ndef f():\n    x = []\n    while True: x.append(bytearray(10_000_000))\n"
    ran = run(platform, tmp_path, text)
    assert ran.code == 1
    assert "ran out of memory" in ran.text
    assert "128 MiB" in ran.text


def test_flood_of_output_is_passed_on_whole(platform: Platform, tmp_path: Path) -> None:
    text = "@app.function()\ndef f():\n    for i in range(20_000): print(i, 'x' * 90)\n"
    ran = run(platform, tmp_path, text)
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.lines()] == [str(i) for i in range(20_000)]


def test_unserialisable_argument(platform: Platform, tmp_path: Path) -> None:
    text = (
        "@app.function()\ndef f(x): pass\n\n@app.local_entrypoint()\ndef main():\n"
        "    import threading\n    f.remote(threading.Lock())\n"
    )
    ran = run(platform, tmp_path, text)
    assert ran.code == 1
    assert "argument 1" in ran.text
    assert "cannot be serialized" in ran.text


def test_result_whose_type_the_client_lacks(platform: Platform, tmp_path: Path) -> None:
    text = (
        "@app.function()\ndef f():\n    import types, sys\n"
        "    m = types.ModuleType('only_remote'); sys.modules['only_remote'] = m\n"
        "    exec('class Thing: pass', m.__dict__); m.Thing.__module__ = 'only_remote'\n    return m.Thing()\n"
    )
    ran = run(platform, tmp_path, text)
    assert ran.code == 1
    assert "only_remote" in ran.text


def test_package_that_does_not_exist(platform: Platform, tmp_path: Path) -> None:
    text = (
        "image = modal.Image.debian_slim().pip_install('no-such-package-anywhere-xyz')\n"
        "@app.function(image=image)\ndef f(): pass\n"
    )
    ran = run(platform, tmp_path, text)
    assert ran.code == 1
    assert "no-such-package-anywhere-xyz" in ran.text
    assert "Traceback" not in ran.text


def test_a_local_module_that_the_image_lacks(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("X = 1\n")
    text = "import beside\n\n@app.function()\ndef f(): return beside.X\n"
    ran = run(platform, tmp_path, text)
    assert ran.code == 1
    assert "No module named 'beside'" in ran.text
    assert 'add_local_python_source("beside")' in ran.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "def d(f):\n    def inner(): return f()\n    return inner\n\n@app.function()\n@d\ndef f(): pass\n",
            "functools.wraps",
        ),
        (
            "if modal.is_local():\n    @app.function()\n    def f(): pass\n",
            "Error: bad.f does not exist in the container: functions must be defined at the top level",
        ),
    ],
)
def test_a_function_that_containers_cannot_find(platform: Platform, tmp_path: Path, text: str, said: str) -> None:
    ran = run(platform, tmp_path, text)
    assert ran.code == 1
    assert said in ran.text
    assert "intermodal.runner" not in ran.text


def test_parameters_that_are_positional_only(platform: Platform, tmp_path: Path) -> None:
    text = "@app.function()\ndef f(x: int, y: str = 'y', /): print(x, y)\n"
    assert run(platform, tmp_path, text, "--x", "3").lines() == ["3 y"]
    assert run(platform, tmp_path, text, "--x", "3", "--y", "z").lines() == ["3 z"]


def test_syntax_error(platform: Platform, tmp_path: Path) -> None:
    ran = run(platform, tmp_path, "def f(:\n    pass\n")
    assert ran.code == 1
    assert "SyntaxError" in ran.text
    assert "bad.py" in ran.text


TWO = "@app.function()\ndef f(x: int): print(x)\n\n@app.function()\ndef g(): pass\n"


@pytest.mark.parametrize(
    ("target", "args", "said"),
    [
        ("::h", [], "f"),
        ("::f", ["--y", "1"], "--y"),
        ("::f", ["--x", "no-number"], "no-number"),
        ("::f", [], "--x"),
        ("", [], "f"),
    ],
)
def test_unknown_function_option_or_value(
    platform: Platform, tmp_path: Path, target: str, args: list[str], said: str
) -> None:
    ran = run(platform, tmp_path, TWO, *args, target=target)
    assert ran.code != 0
    assert said in ran.text
    assert "Traceback" not in ran.text


def test_missing_file(platform: Platform, tmp_path: Path) -> None:
    ran = platform.modal("run", tmp_path / "nothing_here.py")
    assert ran.code != 0
    assert "nothing_here.py" in ran.text
    assert "Traceback" not in ran.text


def test_the_container_is_isolated(platform: Platform, tmp_path: Path) -> None:
    """Own processes, no view of this machine's files, no way to the platform but its own socket."""
    text = (
        "import os\n\n@app.function()\ndef f():\n"
        "    print('pids', sorted(int(p) for p in os.listdir('/proc') if p.isdigit())[:1], os.getpid())\n"
        f"    print('home', os.path.exists({str(platform.home)!r}), os.path.exists('/root/.ssh'))\n"
        "    try:\n        open('/.intermodal/lib/modal/x', 'w')\n"
        "    except OSError as e: print('read-only', e.errno == 30)\n"
    )
    ran = run(platform, tmp_path, text)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["pids [1] 1", "home False False", "read-only True"]
