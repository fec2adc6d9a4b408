"""Ignore patterns: the rules of dockerignore files."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal import FilePatternMatcher
from modal.file_pattern_matcher import NON_PYTHON_FILES, as_matcher

CASES = [
    (["*.py"], "foo.py", True),
    (["*.py"], "dir/foo.py", False),
    (["**/*.py"], "foo.py", True),
    (["**/*.py"], "a/b/foo.py", True),
    (["**"], "a/b", True),
    (["dir"], "dir/a/b", True),
    (["dir"], "directory", False),
    (["dir/"], "dir/a", True),
    (["/dir"], "dir/a", True),
    (["a/**/z"], "a/z", True),
    (["a/**/z"], "a/b/c/z", True),
    (["a/**/z"], "az", False),
    (["a/**"], "a/b", True),
    (["a/**"], "b/a/b", False),
    (["**/a"], "x/a/y", True),
    (["**/a"], "xa", False),
    (["a?c"], "abc", True),
    (["a?c"], "a/c", False),
    (["[a-c].txt"], "b.txt", True),
    (["[a-c].txt"], "d.txt", False),
    (["[^a].txt"], "a.txt", False),
    (["[^a].txt"], "b.txt", True),
    (["*", "!keep"], "drop", True),
    (["*", "!keep"], "keep", False),
    (["*", "!keep"], "keep/inside", False),
    (["*.md", "!README*.md", "README-secret.md"], "README.md", False),
    (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
    (["!keep", "*"], "keep", True),
    (["."], "anything/at/all", True),
    (["./a/../b"], "b/c", True),
    (["a b.txt"], "a b.txt", True),
    ([r"\*.txt"], "*.txt", True),
    ([r"\*.txt"], "a.txt", False),
    (["data.json"], "data.json", True),
    (["a+b(c).txt"], "a+b(c).txt", True),
    (["**/node_modules"], "x/node_modules/y/z.js", True),
    (["**.log"], "a/b.log", True),
    ([], "a", False),
    ([""], "a", False),
]  # fmt: skip


@pytest.mark.parametrize(("patterns", "path", "expected"), CASES)
def test_rules(patterns: list[str], path: str, expected: bool) -> None:
    assert FilePatternMatcher(*patterns)(Path(path)) is expected
    assert (~FilePatternMatcher(*patterns))(Path(path)) is not expected


@pytest.mark.parametrize("pattern", ["!", "! ", "[a", "[z-a]"])
def test_illegal_patterns(pattern: str) -> None:
    with pytest.raises(ValueError, match="illegal"):
        FilePatternMatcher(pattern)


def test_from_file_is_read_when_it_is_first_used(tmp_path: Path) -> None:
    matcher = FilePatternMatcher.from_file(tmp_path / "ignore")
    (tmp_path / "ignore").write_text("# comment\n\n*.txt\n!keep.txt\n")
    assert matcher(Path("a.txt"))
    assert not matcher(Path("keep.txt"))
    assert not matcher(Path("# comment"))


def test_double_inversion_is_the_matcher_itself() -> None:
    matcher = FilePatternMatcher("*.py")
    assert ~~matcher is matcher


def test_non_python_files() -> None:
    assert NON_PYTHON_FILES(Path("a/b.txt"))
    assert not NON_PYTHON_FILES(Path("a/b.py"))


def test_predicates_and_lists_become_matchers() -> None:
    assert as_matcher(lambda path: path.name == "x")(Path("a/x"))
    assert as_matcher(["*.py"])(Path("x.py"))
    with pytest.raises(ValueError, match="list"):
        as_matcher("*.py")


names = st.text(alphabet="abc.-_", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
pieces = st.text(alphabet="abc.*?", min_size=1, max_size=4).filter(lambda piece: piece not in (".", "..", "**"))


@given(paths)
def test_a_literal_path_matches_itself_and_what_is_below(path: str) -> None:
    matcher = FilePatternMatcher(path)
    assert matcher(Path(path))
    assert matcher(Path(path) / "below")
    assert not matcher(Path("z" + path))


@given(pieces, names)
def test_one_part_matches_as_fnmatch_does(piece: str, name: str) -> None:
    simple = re.sub(r"\*+", "*", piece)
    assert FilePatternMatcher(simple)(Path(name)) is fnmatch.fnmatchcase(name, simple)


@given(pieces, paths, names)
def test_double_star_matches_at_any_depth(piece: str, above: str, name: str) -> None:
    simple = re.sub(r"\*+", "*", piece)
    if fnmatch.fnmatchcase(name, simple):
        assert FilePatternMatcher(f"**/{simple}")(Path(above) / name)


@given(st.lists(pieces, max_size=4), paths)
def test_the_last_pattern_that_matches_decides(patterns: list[str], path: str) -> None:
    assert not FilePatternMatcher(*patterns, "!**")(Path(path))
    assert FilePatternMatcher(*patterns, "**")(Path(path))


@given(st.text(max_size=20))
def test_any_text_is_a_pattern_or_an_error(text: str) -> None:
    try:
        matcher = FilePatternMatcher(text)
    except ValueError:
        return
    matcher(Path("a/b"))
