"""A function's parameters as options."""

from __future__ import annotations

import datetime
import enum
import math
from pathlib import Path
from typing import Any, Literal, Optional, Union

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal.cli.parameters import Variadic, parameters_of, parse_arguments
from modal.exception import InvalidError


def parse(function: Any, *args: str) -> dict[str, Any]:
    positional, named = parse_arguments(parameters_of(function), args, "modal run x.py")
    assert positional == ()
    return named


def plain(text: str, n_steps: int = 3, rate: float = 0.5, fast: bool = False) -> None: ...


def test_types_and_dashes() -> None:
    assert parse(plain, "--text", "hi", "--n-steps", "-7", "--rate=1e3", "--fast") == {
        "text": "hi",
        "n_steps": -7,
        "rate": 1000.0,
        "fast": True,
    }


def test_what_is_not_given_is_not_passed() -> None:
    assert parse(plain, "--text", "") == {"text": ""}


def test_a_flag_can_be_turned_off() -> None:
    def main(quick_check: bool = True) -> None: ...

    assert parse(main, "--no-quick-check") == {"quick_check": False}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "--text"),
        (("--text", "x", "--n-steps", "many"), "many"),
        (("--text", "x", "--rate", "quick"), "quick"),
        (("--txt", "x"), "--txt"),
        (("--text", "x", "extra"), "extra"),
    ],
)
def test_wrong_use_names_what_is_wrong(args: tuple[str, ...], says: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse(plain, *args)
    assert says in caught.value.format_message()


def test_a_mistyped_option_names_the_right_one() -> None:
    with pytest.raises(click.UsageError) as caught:
        parse(plain, "--n-step", "3")
    assert "--n-steps" in caught.value.format_message()


def optional(a: Optional[int] = None, b: Union[str, None] = None, c: Optional[bool] = None) -> None: ...


def test_optional_types() -> None:
    assert parse(optional, "--a", "5", "--b", "x", "--c") == {"a": 5, "b": "x", "c": True}
    assert parse(optional) == {}


def test_new_style_optional_in_text() -> None:
    def main(a: int | None = None, b: datetime.datetime | None = None) -> None: ...

    assert parse(main, "--a", "5", "--b", "2025-06-30") == {"a": 5, "b": datetime.datetime(2025, 6, 30)}  # noqa: DTZ001


def test_without_annotation_the_default_decides() -> None:
    def main(url, prompt="x", steps=200, scale=4.5, twice=True, video=Path("a.mp4")):  # type: ignore[no-untyped-def]
        ...

    named = parse(main, *"--url u --prompt p --steps 5 --scale 2 --no-twice --video b.mp4".split())
    assert named == {"url": "u", "prompt": "p", "steps": 5, "scale": 2.0, "twice": False, "video": Path("b.mp4")}
    assert isinstance(named["video"], Path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2025-06-30", datetime.datetime(2025, 6, 30)),  # noqa: DTZ001
        ("2025-06-30T12:30:15", datetime.datetime(2025, 6, 30, 12, 30, 15)),  # noqa: DTZ001
        ("2025-06-30 12:30", datetime.datetime(2025, 6, 30, 12, 30)),  # noqa: DTZ001
        ("2025-06-30T12:30:15Z", datetime.datetime(2025, 6, 30, 12, 30, 15, tzinfo=datetime.UTC)),
    ],
)
def test_times(text: str, value: datetime.datetime) -> None:
    def main(when: datetime.datetime) -> None: ...

    assert parse(main, "--when", text) == {"when": value}


def test_a_wrong_time_shows_how_to_write_it() -> None:
    def main(when: datetime.datetime) -> None: ...

    with pytest.raises(click.UsageError, match="2025-06-30"):
        parse(main, "--when", "yesterday")


def test_choices() -> None:
    def main(mode: Literal["fast", "slow"] = "fast") -> None: ...

    assert parse(main, "--mode", "slow") == {"mode": "slow"}
    with pytest.raises(click.UsageError, match="slow"):
        parse(main, "--mode", "medium")


def test_args_are_passed_as_they_are() -> None:
    def main(*arglist: str) -> None: ...

    parameters = parameters_of(main)
    assert isinstance(parameters, Variadic)
    raw = ["--foo=42", "--help", "-x", "", "--", "a b"]
    assert parse_arguments(parameters, raw, "x") == (tuple(raw), {})


def test_args_beside_others_are_refused() -> None:
    def main(a: int, *rest: str) -> None: ...

    with pytest.raises(InvalidError, match=r"\*rest"):
        parameters_of(main)


def test_what_text_cannot_fill() -> None:
    def needs(data: dict[str, int]) -> None: ...

    def may(data: Optional[list[int]] = None, n: int = 1) -> None: ...

    with pytest.raises(InvalidError, match="`data` of type"):
        parameters_of(needs)
    assert parse(may, "--n", "2") == {"n": 2}
    with pytest.raises(click.UsageError, match="cannot come from the command line"):
        parse(may, "--data", "1")


def test_keyword_only_parameters_and_kwargs() -> None:
    def main(*, a: int, **others: Any) -> None: ...

    assert parse(main, "--a", "1") == {"a": 1}


def test_decorated_functions_keep_their_parameters() -> None:
    import functools

    def wrap(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    assert parse(wrap(plain), "--text", "x") == {"text": "x"}


def test_help_lists_options_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit):
        parse_arguments(parameters_of(plain), ["--help"], "modal run x.py", "What it does.")
    text = capsys.readouterr().out
    for part in ("modal run x.py", "What it does.", "--n-steps INTEGER", "[default: 3]", "--fast", "--no-fast"):
        assert part in text
    assert "[required]" in text


def test_positional_only_parameters_are_passed_by_position() -> None:
    def main(a: int, b: str = "b", c: int = 3, /, d: int = 4) -> None: ...

    def parsed(*args: str) -> Any:
        return parse_arguments(parameters_of(main), args, "modal run x.py")

    assert parsed("--a", "1") == ((1,), {})
    assert parsed("--a", "1", "--c", "5", "--d", "6") == ((1, "b", 5), {"d": 6})


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2
    GREEN = ("a", "tuple")


def test_members_of_an_enum(capsys: pytest.CaptureFixture[str]) -> None:
    def main(colour: Colour, other: Optional[Colour] = None) -> None: ...

    for text, member in (("RED", Colour.RED), ("red", Colour.RED), ("2", Colour.BLUE), ("GREEN", Colour.GREEN)):
        assert parse(main, "--colour", text, "--other", text) == {"colour": member, "other": member}
    with pytest.raises(click.UsageError, match="not one of RED, BLUE, GREEN"):
        parse(main, "--colour", "yellow")
    with pytest.raises(click.exceptions.Exit):
        parse(main, "--help")
    assert "[RED|BLUE|GREEN]" in capsys.readouterr().out


def test_a_value_that_cannot_come_says_what_can() -> None:
    def main(many: tuple[int, ...] = ()) -> None: ...

    with pytest.raises(click.UsageError, match=r"tuple.* possible are str, int"):
        parse(main, "--many", "1")


NAMES = st.text("abno_", min_size=1, max_size=8).filter(
    lambda name: name.isidentifier() and not name.startswith("_") and not name.endswith("_") and "__" not in name
)
VALUES = {
    "str": st.text("ab-=_ \t\n\\\"'é日🔨", max_size=20),
    "int": st.integers(),
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
}


@st.composite
def signatures(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, Any]]:
    import keyword

    names = draw(st.lists(NAMES.filter(lambda n: not keyword.iskeyword(n)), min_size=1, max_size=5, unique=True))
    flags = {name.replace("_", "-") for name in names}
    kinds = {name: draw(st.sampled_from(sorted(VALUES))) for name in names}
    for name in names:  # --no-x of a flag must not be another parameter
        if name.startswith("no_") or f"no-{name}" in flags:
            kinds[name] = "int" if not name.startswith("no_") else kinds[name]
    values = {name: draw(VALUES[kind]) for name, kind in kinds.items()}
    return kinds, values


@given(signatures())
def test_any_value_of_any_parameter_arrives(case: tuple[dict[str, str], dict[str, Any]]) -> None:
    kinds, values = case
    scope: dict[str, Any] = {}
    exec(f"def main({', '.join(f'{n}: {k}' for n, k in kinds.items())}): ...", scope)
    args = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if kinds[name] == "bool":
            args.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            args.append(f"--{flag}={value!r}" if kinds[name] == "float" else f"--{flag}={value}")
    named = parse(scope["main"], *args)
    assert named.keys() == values.keys()
    for name, value in values.items():
        assert named[name] == value or math.isclose(named[name], value)
        assert type(named[name]) is type(value)
