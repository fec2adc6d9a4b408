from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from modal import _traceback
from modal._protocol.messages.call import CallFailure, pack_failure, unpack_failure
from modal._serialization import exception_of, failure_of
from modal.exception import ExecutionError, FunctionTimeoutError, RemoteError

SOURCE = """
class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a = a

class Plain(Exception):
    pass

def inner():
    raise KeyError("inner")

def outer():
    try:
        inner()
    except KeyError as error:
        raise Odd(1, 2) from error

def context():
    try:
        inner()
    except KeyError:
        raise Plain("outer")

def deep(n):
    deep(n + 1)
"""


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module as the user's code in a container."""
    (tmp_path / "far_module.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import far_module  # type: ignore[import-not-found]

    yield far_module
    sys.modules.pop("far_module", None)


def travel(call: Callable[[], Any]) -> CallFailure:
    """The failure of a call, as it arrives."""
    try:
        call()
    except BaseException as error:
        return unpack_failure(pack_failure(failure_of(error)))
    raise AssertionError("nothing was raised")


def test_the_type_the_attributes_and_the_cause_arrive(far: Any) -> None:
    failure = travel(far.outer)
    assert failure.code == "user"
    assert failure.type_name == "far_module.Odd"
    error = exception_of(failure)
    assert type(error) is far.Odd
    assert str(error) == "1 and 2"
    assert error.a == 1
    assert repr(error.__cause__) == "KeyError('inner')"
    assert exception_of(travel(far.context)).__context__ is not None


def test_the_traceback_is_the_remote_one(far: Any, tmp_path: Path) -> None:
    failure = travel(far.outer)
    (tmp_path / "far_module.py").unlink()
    error = exception_of(failure)
    assert _traceback.is_remote(error)
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert 'far_module.py", line 17, in outer\n    raise Odd(1, 2) from error\n' in text
    assert 'far_module.py", line 11, in inner\n    raise KeyError("inner")\n' in text
    assert "in outer" in failure.traceback
    assert "KeyError: 'inner'" in failure.traceback


def test_a_remote_exception_can_travel_on(far: Any) -> None:
    """A function that calls another: its caller sees the frames of both."""

    def middle() -> None:
        raise exception_of(travel(far.outer))

    error = exception_of(travel(middle))
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "outer"
    assert "middle" in names


def test_frames_of_the_platform_are_hidden(far: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modal import _sync

    async def call() -> None:
        far.context()

    failure = travel(lambda: _sync.run(call()))
    assert any(frame[4] for frame in failure.frames)
    shown = [entry.filename for entry in traceback.extract_tb(exception_of(failure).__traceback__)]
    assert not any("_sync" in path for path in shown)
    assert "_sync.py" not in failure.traceback
    monkeypatch.setenv("MODAL_TRACEBACK", "1")
    shown = [entry.filename for entry in traceback.extract_tb(exception_of(failure).__traceback__)]
    assert any("_sync" in path for path in shown)


def test_a_type_that_is_not_here_is_named(far: Any, tmp_path: Path) -> None:
    failure = travel(far.context)
    (tmp_path / "far_module.py").unlink()
    del sys.modules["far_module"]
    error = exception_of(failure)
    assert type(error) is ExecutionError
    assert "far_module.Plain: outer" in str(error)
    assert "No module named 'far_module'" in str(error)
    assert _traceback.is_remote(error)


def test_a_cause_that_is_not_here_leaves_the_rest(far: Any, tmp_path: Path) -> None:
    def call() -> None:
        raise ValueError("mine") from far.Plain("cause")

    failure = travel(call)
    (tmp_path / "far_module.py").unlink()
    del sys.modules["far_module"]
    error = exception_of(failure)
    assert repr(error) == "ValueError('mine')"
    assert type(error.__cause__) is ExecutionError


def test_arguments_that_cannot_travel(far: Any) -> None:
    import threading

    def call() -> None:
        error = far.Plain("message", threading.Lock())
        error.keep, error.lock = 5, threading.Lock()
        raise error

    error = exception_of(travel(call))
    assert type(error) is far.Plain
    assert error.args[0] == "message"
    assert "lock" in error.args[1]
    assert error.keep == 5
    assert not hasattr(error, "lock")


def test_builtin_exceptions_with_state() -> None:
    def decode() -> None:
        b"\xff".decode()

    error = exception_of(travel(decode))
    assert type(error) is UnicodeDecodeError
    assert error.object == b"\xff"

    def missing() -> None:
        open("/does/not/exist")

    error = exception_of(travel(missing))
    assert type(error) is FileNotFoundError
    assert (error.errno, error.filename) == (2, "/does/not/exist")


def test_groups(far: Any) -> None:
    def call() -> None:
        raise ExceptionGroup("several", [ValueError("a"), far.Plain("b")])

    error = exception_of(travel(call))
    assert isinstance(error, ExceptionGroup)
    assert [str(one) for one in error.exceptions] == ["a", "b"]


def test_a_group_whose_members_cannot_travel_whole(far: Any) -> None:
    import threading

    def call() -> None:
        bad = far.Plain("b")
        bad.lock = threading.Lock()
        try:
            far.inner()
        except KeyError as inner:
            group = ExceptionGroup("several", [ExceptionGroup("two", [ValueError("a"), bad]), inner])
            group.add_note("noted")
            raise group from None

    error = exception_of(travel(call))
    assert type(error) is ExceptionGroup
    assert (str(error), error.__notes__) == ("several (2 sub-exceptions)", ["noted"])
    first, second = error.exceptions
    assert [type(one) for one in first.exceptions] == [ValueError, far.Plain]  # type: ignore[attr-defined]
    names = [frame.name for frame in traceback.extract_tb(second.__traceback__)]
    assert names[-1] == "inner"


def test_a_group_that_is_too_large_tells_of_its_members() -> None:
    def call() -> None:
        raise ExceptionGroup("many", [ValueError("x" * 500_000, number) for number in range(8)])

    error = exception_of(travel(call))
    assert type(error) is ExceptionGroup
    assert len(error.exceptions) == 8
    assert all("ValueError" in str(one) for one in error.exceptions)


def test_a_part_whose_type_is_not_here_leaves_the_rest(far: Any, tmp_path: Path) -> None:
    """Such as a number of numpy's, where only the container has numpy."""

    def call() -> None:
        error = ValueError("message", far.Plain("p"))
        error.kept, error.lost = 5, far.Plain("q")  # type: ignore[attr-defined]
        raise error

    failure = travel(call)
    (tmp_path / "far_module.py").unlink()
    del sys.modules["far_module"]
    error = exception_of(failure)
    assert type(error) is ValueError
    assert error.args == ("message", "Plain('p')")
    assert error.kept == 5  # type: ignore[attr-defined]
    assert not hasattr(error, "lost")


def test_a_type_that_pickles_itself_and_cannot_keeps_its_type() -> None:
    import threading

    def call() -> None:
        error = OSError(5, "broken")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    error = exception_of(travel(call))
    assert (type(error), error.args) == (OSError, (5, "broken"))


def test_a_module_that_only_this_machine_has(far: Any) -> None:
    """The container lacks what its program imports; which of the two ways to mend it helps depends on the module."""
    import click

    def call(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def notes(name: str) -> list[str]:
        return getattr(exception_of(travel(lambda: call(name))), "__notes__", [])

    assert "site-packages" in click.__file__
    assert 'add_local_python_source("far_module")' in notes("far_module")[0]
    assert "pip_install" in notes("click.core")[0]
    assert notes("asyncio") == notes("nowhere_to_be_found") == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, asyncio.CancelledError])
def test_what_would_end_the_caller_becomes_an_error(kind: type[BaseException]) -> None:
    def call() -> None:
        raise kind("x")

    error = exception_of(travel(call))
    assert type(error) is ExecutionError
    assert kind.__name__ in str(error)


def test_exceptions_that_resist() -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        def __reduce__(self) -> Any:
            raise RuntimeError("no")

    def call() -> None:
        raise Nasty

    failure = travel(call)
    assert "Nasty" in failure.type_name
    assert type(exception_of(failure)).__name__ == "Nasty"
    with pytest.raises(RuntimeError, match="no"):
        str(exception_of(failure))


@pytest.mark.parametrize("argument", ["x" * (3 << 20), bytes(3 << 20), ["a"] * (3 << 20)], ids=["str", "bytes", "list"])
def test_large_ones_keep_their_type_and_a_part_of_their_text(argument: Any) -> None:
    def call() -> None:
        error = ValueError(argument, 7)
        error.small, error.large = 1, argument  # type: ignore[attr-defined]
        raise error

    failure = travel(call)
    assert len(failure.text) < 70_000
    arrived = exception_of(failure)
    assert type(arrived) is ValueError
    assert len(arrived.args[0]) < 70_000
    assert (arrived.args[1], arrived.small) == (7, 1)  # type: ignore[attr-defined]
    assert not hasattr(arrived, "large")


def test_endless_recursion_keeps_its_ends(far: Any) -> None:
    failure = travel(lambda: far.deep(0))
    assert len(failure.frames) <= _traceback.MAX_FRAMES
    assert type(exception_of(failure)) is RecursionError


def test_half_of_a_surrogate_pair() -> None:
    def call() -> None:
        raise ValueError("\ud800")

    assert str(exception_of(travel(call))) == "\ud800"
    assert travel(call).text == "\\ud800"


def test_failures_of_the_platform() -> None:
    assert type(exception_of(CallFailure("remote", text="The container died."))) is RemoteError
    timeout = exception_of(CallFailure("timeout", text="f took longer than 5 s"), timed_out=True)
    assert type(timeout) is FunctionTimeoutError
    assert str(exception_of(CallFailure("execution", text="Bad.", hint="Do this."))) == "Bad. Do this"
    assert type(exception_of(CallFailure("of-a-newer-server", text="x"))) is RemoteError


def test_a_broken_pickle_is_only_text() -> None:
    error = exception_of(CallFailure("user", type_name="X", text="y", pickled=b"junk"))
    assert type(error) is ExecutionError
    assert "X: y" in str(error)


def test_syntax_errors_show_their_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("def f(:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def call() -> ModuleType:
        import broken_module  # type: ignore[import-not-found]

        return broken_module  # type: ignore[no-any-return]

    failure = travel(call)
    assert "def f(:" in failure.traceback
    assert "importlib" not in failure.traceback
    assert type(exception_of(failure)) is SyntaxError
