"""Patterns that name files to leave out: the syntax of `.dockerignore`.

`*` matches within one part of a path, `**` any number of parts, `?` one character, `[a-z]` one of a class;
a pattern that matches a directory matches all that is in it; `!pattern` takes files in again; the last
pattern that matches decides. Patterns are relative to the directory that they are applied to; a `/` at either
end means nothing. `#` begins a comment line in files.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Callable, Optional, Sequence, Union

if TYPE_CHECKING:
    from pathlib import Path


class _AbstractPatternMatcher:
    """A callable from a path to whether it matches, with `~` for the opposite."""

    def __call__(self, path: Path) -> bool:
        raise NotImplementedError

    def __invert__(self) -> _AbstractPatternMatcher:
        return _Inverted(self)

    def can_prune(self) -> bool:
        """Whether a directory that matches may be skipped with all that is in it."""
        return False

    def _matches_name(self, name: str) -> bool:
        """As a call with the path of that name, which is relative and in its shortest form, with `/` between parts."""
        from pathlib import Path

        return self(Path(name))


class _Inverted(_AbstractPatternMatcher):
    def __init__(self, inner: _AbstractPatternMatcher) -> None:
        self._inner = inner

    def __call__(self, path: Path) -> bool:
        return not self._inner(path)

    def _matches_name(self, name: str) -> bool:
        return not self._inner._matches_name(name)

    def __invert__(self) -> _AbstractPatternMatcher:
        return self._inner

    def __repr__(self) -> str:
        return f"~{self._inner!r}"


class _CustomMatcher(_AbstractPatternMatcher):
    """A predicate of the user's as a matcher."""

    def __init__(self, predicate: Callable[[Path], Any]) -> None:
        self._predicate = predicate

    def __call__(self, path: Path) -> bool:
        return bool(self._predicate(path))


class _Pattern:
    """One line, compiled."""

    __slots__ = ("excludes", "expression", "text")

    def __init__(self, text: str) -> None:
        line = text.strip()
        self.excludes = not line.startswith("!")  # from what is taken
        body = line if self.excludes else line[1:].strip()
        if not body:
            raise ValueError(f"illegal exclusion pattern: {text!r}")
        cleaned = os.path.normpath(body.replace(os.sep, "/")).replace(os.sep, "/").strip("/")
        self.text = text
        # "." or "/": the directory itself, with everything in it
        source = "" if cleaned in (".", "") else _translate(cleaned, text)
        self.expression = re.compile(rf"{source}(?:/.*)?\Z" if source else r".*\Z", re.DOTALL)


def _translate(pattern: str, shown: str) -> str:
    """The regular expression of a cleaned pattern. Raises ValueError where a class is not closed."""
    out: list[str] = []
    at, end = 0, len(pattern)
    while at < end:
        character = pattern[at]
        at += 1
        if character == "*":
            if pattern[at : at + 1] == "*":
                at += 1
                if pattern[at : at + 1] == "/":
                    at += 1
                    out.append("(?:.*/)?" if len(out) == 0 or out[-1] == "/" else ".*/?")
                else:
                    out.append(".*")
            else:
                out.append("[^/]*")
        elif character == "?":
            out.append("[^/]")
        elif character == "[":
            part, at = _character_class(pattern, at, shown)
            out.append(part)
        elif character == "\\" and os.sep != "\\":
            if at == end:
                raise ValueError(f"illegal pattern: {shown!r} ends with a backslash")
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append("/" if character == "/" else re.escape(character))
    return "".join(out)


def _character_class(pattern: str, at: int, shown: str) -> tuple[str, int]:
    start = at
    if pattern[at : at + 1] in ("^", "!"):
        at += 1
    if pattern[at : at + 1] == "]":
        at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    if at >= len(pattern):
        raise ValueError(f"illegal pattern: {shown!r} has a [ without ]")
    body = pattern[start:at]
    negated = body[:1] in ("^", "!")
    if negated:
        body = body[1:]
    body = body.replace("[", "\\[").replace("&&", "\\&&").replace("||", "\\||").replace("~~", "\\~~")
    if body.startswith("]"):
        body = "\\" + body
    try:
        re.compile(f"[{body}]")
    except re.error as error:
        raise ValueError(f"illegal pattern: {shown!r}: {error}") from None
    return (rf"(?!/)[^{body}]" if negated else rf"(?!/)[{body}]"), at + 1


class FilePatternMatcher(_AbstractPatternMatcher):
    """Allows matching file Path objects against a list of patterns.

    **Usage:**

    ```python
    from pathlib import Path
    from modal import FilePatternMatcher

    matcher = FilePatternMatcher("*.py")

    assert matcher(Path("foo.py"))

    # You can also negate the matcher.
    negated_matcher = ~matcher

    assert not negated_matcher(Path("foo.py"))
    ```
    """

    _file: Optional[Path] = None
    _compiled: Optional[list[_Pattern]] = None

    def __init__(self, *pattern: str) -> None:
        """Initialize a new FilePatternMatcher instance.

        Raises:
            ValueError: If an illegal exclusion pattern is provided.
        """
        given: Sequence[Any] = pattern
        for part in given:
            if not isinstance(part, str):
                raise ValueError(f"a pattern must be a str, not {type(part).__name__}")
        self._compiled = _compile(pattern)

    @classmethod
    def from_file(cls, file_path: Union[str, Path]) -> FilePatternMatcher:
        """Initialize a new FilePatternMatcher instance from a file.

        The patterns in the file will be read lazily when the matcher is first used.
        """
        from pathlib import Path

        matcher = cls.__new__(cls)
        matcher._file = Path(file_path).expanduser()
        return matcher

    @property
    def _patterns(self) -> list[_Pattern]:
        if self._compiled is None:
            assert self._file is not None
            self._compiled = _compile(read_patterns(self._file))
        return self._compiled

    def can_prune(self) -> bool:
        return all(pattern.excludes for pattern in self._patterns)

    def __call__(self, path: Path) -> bool:
        return self._matches_name(os.path.normpath(path).replace(os.sep, "/").lstrip("/"))

    def _matches_name(self, name: str) -> bool:
        matched = False
        for pattern in self._patterns:
            # the state can only change by a pattern of the other kind
            if pattern.excludes != matched and pattern.expression.match(name):
                matched = pattern.excludes
        return matched

    def __repr__(self) -> str:
        if self._compiled is None:
            return f"FilePatternMatcher.from_file({str(self._file)!r})"
        return f"FilePatternMatcher({', '.join(repr(pattern.text) for pattern in self._compiled)})"


def _compile(patterns: Sequence[str]) -> list[_Pattern]:
    return [_Pattern(pattern) for pattern in patterns if pattern.strip()]


def read_patterns(path: Path) -> list[str]:
    """The patterns of an ignore file: its lines without comments and empty ones."""
    lines = path.read_text("utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def as_matcher(ignore: Union[Sequence[str], Callable[[Path], Any]]) -> _AbstractPatternMatcher:
    """What is given as `ignore=`: patterns, a matcher or a predicate."""
    if isinstance(ignore, _AbstractPatternMatcher):
        return ignore
    if isinstance(ignore, str):
        raise ValueError(f"ignore= must be a list of patterns, not the string {ignore!r}: write [{ignore!r}]")
    if callable(ignore):
        return _CustomMatcher(ignore)
    patterns: Any = list(ignore) if hasattr(ignore, "__iter__") else [None]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"ignore= must be a list of patterns or a function of a path, not {ignore!r}")
    return FilePatternMatcher(*patterns)


NON_PYTHON_FILES = ~FilePatternMatcher("**/*.py")


class _AutoDockerignore(_AbstractPatternMatcher):
    """Stands for "the dockerignore file where there is one": resolved by whoever knows the Dockerfile."""

    def __call__(self, path: Path) -> bool:
        raise RuntimeError("AUTO_DOCKERIGNORE must be resolved before use")

    def __repr__(self) -> str:
        return "AUTO_DOCKERIGNORE"


AUTO_DOCKERIGNORE = _AutoDockerignore()
