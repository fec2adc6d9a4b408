"""Requirements files with what they name: one text, as an image gets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modal._requirements import recipe_fields, requirements_of
from modal.exception import InvalidError


def files(directory: Path, **texts: str) -> str:
    """`name=text` each, as `name.txt`; the path of the first one."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / f"{name}.txt").write_text(text)
    return str(directory / f"{next(iter(texts))}.txt")


def test_what_it_names_stands_in_its_place(tmp_path: Path) -> None:
    files(tmp_path / "of ü", inner="b")
    top = files(
        tmp_path, top="a\n-r of ü/inner.txt  # why\n--requirement=more.txt\n-rlast.txt\nz", more="c\n", last="d"
    )
    assert requirements_of([top], "m") == (["a\nb\nc\nd\nz"], "")


def test_constraints_are_apart_and_so_is_all_that_they_name(tmp_path: Path) -> None:
    top = files(tmp_path, top="a\n-c limits.txt\n", limits="a==1\n-r others.txt", others="b==2")
    assert recipe_fields([top], "m", one=True) == {"requirements": "a\n", "constraints": "a==1\nb==2\n"}
    assert recipe_fields([top], "m") == {"requirements": ["a\n"], "constraints": "a==1\nb==2\n"}


def test_what_no_local_file_is_stays(tmp_path: Path) -> None:
    text = (
        "# -r comment.txt\n-r https://example.com/x.txt\n-c file:///x.txt\n-i https://index\n--pre\na ; extra == '-r'\n"
    )
    assert requirements_of([files(tmp_path, top=text)], "m") == ([text], "")


def test_what_is_missing_or_goes_in_circles_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"there is no file .*more\.txt"):
        requirements_of([files(tmp_path, top="-r more.txt")], "m")
    with pytest.raises(InvalidError, match="includes itself"):
        requirements_of([files(tmp_path, top="-r back.txt", back="-r ./top.txt")], "m")
