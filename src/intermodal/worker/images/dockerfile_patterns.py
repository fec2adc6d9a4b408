"""What the flags of COPY and ADD say: which names a pattern means, and which permissions `--chmod` gives."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

from intermodal.worker.images.failures import StepError

ModeChange = Callable[[int, bool], int]  # takes permission bits and whether it is a directory

_OCTAL = re.compile(r"0?[0-7]{3,4}\Z")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)\Z")
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}


def expression(pattern: str) -> re.Pattern[str]:
    """One name with `*`, `?` and `[…]`, as Go's filepath.Match has it."""
    return re.compile(fnmatch.translate(pattern.replace("[^", "[!")))


class Excluded:
    """The names that `--exclude` leaves out, as lines of a .dockerignore would."""

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = [_split(pattern) for pattern in patterns]

    def __call__(self, path: str) -> bool:
        """Whether a path relative to the source is left out; what is below it goes with it."""
        return bool(self._patterns) and any(_matches(parts, path.split("/")) for parts in self._patterns)


def _split(pattern: str) -> list[str | re.Pattern[str]]:
    parts = [part for part in pattern.strip().split("/") if part not in ("", ".")]
    return [part if part == "**" else expression(part) for part in parts]


def _matches(pattern: list[str | re.Pattern[str]], parts: list[str]) -> bool:
    if not pattern:
        return not parts
    first = pattern[0]
    if isinstance(first, str):  # ** stands for any number of names
        return any(_matches(pattern[1:], parts[at:]) for at in range(len(parts) + 1))
    return bool(parts) and first.match(parts[0]) is not None and _matches(pattern[1:], parts[1:])


def mode_change(text: str) -> ModeChange:
    """What `--chmod` does: octal (755) or in chmod's words (u=rwX,go=rX). Raises StepError."""
    if _OCTAL.match(text):
        octal = int(text, 8)
        return lambda _mode, is_directory: octal | 0o111 if is_directory else octal
    clauses = [_CLAUSE.match(clause) for clause in text.split(",")]
    if not all(clauses):
        raise StepError(f"--chmod={text} must be octal, such as 755, or in words, such as u=rwX,go=rX")
    changes = [
        (match[1] or "a", part[0], part[1:])
        for match in clauses
        if match is not None
        for part in re.findall(r"[-+=][rwxXst]*", match[2])
    ]

    def change(mode: int, is_directory: bool) -> int:
        for who, how, what in changes:
            reach = 0
            for one in who:
                reach |= _WHO[one]
            bits = 0
            for letter in what:
                if letter == "X":
                    bits |= 0o111 if is_directory or mode & 0o111 else 0
                elif letter == "s":
                    bits |= 0o6000
                elif letter == "t":
                    bits |= 0o1000
                else:
                    bits |= _BITS[letter]
            bits &= reach | (0o1000 if "t" in what else 0)
            if how == "=":
                mode = mode & ~reach | bits
            else:
                mode = mode | bits if how == "+" else mode & ~bits
        return mode

    return change
