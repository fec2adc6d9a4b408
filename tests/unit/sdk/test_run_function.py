"""Image.run_function: what decides whether a function must run again, and what is said before it runs."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import modal
from modal import Image
from modal._build_function import identity, variables_of
from modal._building import recipe_of
from modal.exception import InvalidError

WORD = "hello"
TABLE = {"a": [1, 2], "b": {"x", "y", "z"}}
LOCK = threading.Lock()
UNUSED = 1


def helper() -> str:
    return "helper"


def step() -> Any:
    return WORD, TABLE, LOCK, helper(), [WORD for _ in range(3)]


def other(a: int = 0) -> None:
    print(a)


def test_data_that_it_refers_to_counts_and_code_does_not() -> None:
    assert set(variables_of(step)) == {"WORD", "TABLE", "LOCK"}


def test_what_it_refers_to_changes_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(step)
    assert identity(step) == before
    monkeypatch.setattr(sys.modules[__name__], "UNUSED", 2)
    monkeypatch.setattr(sys.modules[__name__], "helper", lambda: "changed")
    assert identity(step) == before
    monkeypatch.setattr(sys.modules[__name__], "WORD", "bye")
    changed = identity(step)
    monkeypatch.setattr(sys.modules[__name__], "TABLE", {"a": [1, 3]})
    assert len({before, changed, identity(step)}) == 3


def test_arguments_and_source_change_the_identity() -> None:
    found = [
        identity(other),
        identity(other, [1]),
        identity(other, [], {"a": 1}),
        identity(step),
        identity(other, ["1"]),
    ]
    assert len(set(found)) == 5


def test_a_wrapped_function_counts_for_what_it_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(step)
    def wrapper() -> Any:
        return step()

    before = identity(wrapper)
    assert before == identity(step)
    monkeypatch.setattr(sys.modules[__name__], "WORD", "bye")
    assert identity(wrapper) != before


def test_an_enclosing_variable_counts() -> None:
    def make(value: int) -> Any:
        def inner() -> int:
            return value

        return inner

    assert identity(make(1)) != identity(make(2))


def test_the_identity_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        textwrap.dedent("""
        from modal._build_function import identity
        NAMES = {"x", "y", "z", "zz"}
        def f(): return NAMES
        print(identity(f, [frozenset("abc")], {"k": NAMES}))
        """)
    )
    outputs = {
        subprocess.run(
            [sys.executable, "program.py"], cwd=tmp_path, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_the_recipe_says_what_decides_and_what_it_is_carried_out_with() -> None:
    image = Image.debian_slim().run_function(
        other, args=(1,), cpu=2.0, memory=512, timeout=60, gpu="T4", force_build=True
    )
    [files] = image._steps()[1].file_sets
    assert files.description.endswith("tests")
    _base, made = recipe_of(image, {}, {files.key: ["mo-1"]})
    supplies = made.pop("supplies")
    assert made == {
        "kind": "run_function", "name": "other", "identity": identity(other, [1]), "force": True, "gpu": ["T4"],
    }  # fmt: skip
    assert supplies["mount_ids"] == ["mo-1"]
    assert (supplies["qualname"], supplies["timeout"], supplies["cpu"], supplies["memory"]) == ("other", 60, 2.0, 512)
    without = Image.debian_slim().run_function(other, include_source=False)
    assert without._steps()[1].file_sets == []


def test_a_function_that_no_file_has_travels_by_itself() -> None:
    image = Image.debian_slim().run_function(lambda: None)
    [files] = image._steps()[1].file_sets
    supplies = recipe_of(image, {}, {files.key: ["mo-1"]})[1]["supplies"]
    assert supplies["source"] == "serialized"
    assert supplies["function"]


def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Image.debian_slim().run_function("x"), "a plain function is needed"),  # type: ignore[arg-type]
        (lambda: Image.debian_slim().run_function(generator), "generator"),
        (lambda: Image.debian_slim().run_function(modal.method()(other)), "without a decorator"),
        (lambda: Image.debian_slim().run_function(other, cpu=(1, 2)), "cpu must be a number"),
        (lambda: Image.debian_slim().run_function(other, include_source="x"), "include_source"),  # type: ignore[arg-type]
        (lambda: Image.debian_slim().run_function(other, volumes={"data": 1}), "data"),  # type: ignore[dict-item]
        (lambda: Image.debian_slim().run_function(other, timeout=0), "timeout"),
    ],
)
def test_what_cannot_be_a_build_step_is_said_where_it_is_written(make: Any, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        make()


def test_arguments_that_cannot_be_sent_are_explained() -> None:
    image = Image.debian_slim().run_function(other, args=(LOCK,))
    [files] = image._steps()[1].file_sets
    with pytest.raises(InvalidError, match="the arguments cannot be sent"):
        recipe_of(image, {}, {files.key: ["mo-1"]})
